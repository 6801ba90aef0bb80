"""The cache is pinned, belongs to one TensorRT on one GPU, and decides alone when it is frozen."""

import dataclasses
import hashlib
import json
import subprocess

import pytest
from helpers_engines import fake_tensorrt
from helpers_graphs import tiny_module, tiny_spec

from sttm_export.contracts.target import find_target
from sttm_export.engines import build as build_module
from sttm_export.engines import timing_cache
from sttm_export.engines.api import Api
from sttm_export.engines.build import build_engine
from sttm_export.engines.faults import EngineError
from sttm_export.engines.options import BuildOptions
from sttm_export.errors import UserError
from sttm_export.graphs.export import export_graph

ORIN = find_target("jetson-orin-jp62")
MADE = b"sm87 kernels"
HERE = ("10.3.0.30", "sm87")


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return export_graph(tiny_module("float16"), tiny_spec("float16"), tmp_path_factory.mktemp("graph"))


@pytest.fixture
def orin(monkeypatch):
    """An Orin whose TensorRT is a fake; `orin(**fake)` puts another one there."""

    def put(**fake):
        monkeypatch.setattr(build_module, "gpu_capability", lambda: "sm87")
        monkeypatch.setattr(build_module.platform, "machine", lambda: "aarch64")
        monkeypatch.setattr(build_module, "load_api", lambda flavour: Api(flavour, fake_tensorrt(**fake)))

    put()
    return put


def build(graph, folder, **options):
    cache = options.pop("timing_cache", folder / "timing.cache")
    result = build_engine(graph, ORIN, None, folder / "x.engine", options=BuildOptions(timing_cache=cache, **options))
    return json.loads((folder / "x.engine.json").read_text())["timing_cache"], result


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def sha(content):
    return hashlib.sha256(content).hexdigest()


def test_the_cache_is_kept_and_pinned(orin, graph, tmp_path):
    use, result = build(graph, tmp_path)
    assert use == {"file": "timing.cache", "sha256_before": "", "sha256_after": sha(MADE), "frozen": False}
    assert dataclasses.asdict(result.timing_cache) == use
    assert (tmp_path / "timing.cache").read_bytes() == MADE
    subprocess.run(["sha256sum", "--check", "--strict", "timing.cache.sha256"], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "timing.cache.json").read_text()) == dict(
        zip(("tensorrt", "compute_capability"), HERE, strict=True)
    )


def test_a_second_build_starts_from_it(orin, graph, tmp_path):
    build(graph, tmp_path)
    use, _ = build(graph, tmp_path)
    assert use["sha256_before"] == use["sha256_after"] == sha(MADE)


def test_a_frozen_cache_decides_alone_and_is_not_written(orin, graph, tmp_path):
    build(graph, tmp_path)
    cache = tmp_path / "timing.cache"
    before = cache.stat().st_mtime_ns
    use, result = build(graph, tmp_path, frozen_timing_cache=True)
    assert use["frozen"] and use["sha256_after"] == sha(MADE) and cache.stat().st_mtime_ns == before
    assert result.options["compute_capability"] == "sm87"


def test_a_frozen_cache_that_grew_is_a_miss(orin, graph, tmp_path):
    """Though TensorRT has not said so: its flag was reported not to stop every miss."""
    timing_cache.write_cache(tmp_path / "timing.cache", b"sm87 little", *HERE)
    before = names_in(tmp_path)
    with pytest.raises(EngineError, match=r"frozen timing cache timing.cache does not hold every kernel .* build once"):
        build(graph, tmp_path, frozen_timing_cache=True)
    assert names_in(tmp_path) == before and (tmp_path / "timing.cache").read_bytes() == b"sm87 little"


def test_a_frozen_cache_that_is_missing(orin, graph, tmp_path):
    with pytest.raises(UserError, match=r"timing.cache is missing, and a frozen timing cache is read, not made"):
        build(graph, tmp_path, frozen_timing_cache=True)
    assert names_in(tmp_path) == []


def test_a_cache_that_is_not_the_pinned_one(orin, graph, tmp_path):
    build(graph, tmp_path)
    (tmp_path / "timing.cache").write_bytes(b"sm87 other")
    with pytest.raises(UserError, match=r"timing.cache is not the cache that timing.cache.sha256 pins; bring back"):
        build(graph, tmp_path)


def test_a_cache_without_a_pin(orin, graph, tmp_path):
    (tmp_path / "timing.cache").write_bytes(MADE)
    with pytest.raises(UserError, match=r"no timing.cache.sha256 beside it; .* `sha256sum timing.cache > timing"):
        build(graph, tmp_path)
    (tmp_path / "timing.cache.sha256").write_text(f"{sha(MADE)}  timing.cache\n")
    assert build(graph, tmp_path)[0]["sha256_before"] == sha(MADE)


@pytest.mark.parametrize("made", [("10.3.0.26", "sm87"), ("10.3.0.30", "sm89")])
def test_a_cache_of_another_machine(orin, graph, tmp_path, made):
    timing_cache.write_cache(tmp_path / "timing.cache", MADE, *made)
    with pytest.raises(UserError, match=rf"is of TensorRT {made[0]} on {made[1]}, here is 10.3.0.30 on sm87, .*anew"):
        build(graph, tmp_path)
    assert "x.engine" not in names_in(tmp_path)


def test_a_cache_that_tensorrt_does_not_take(orin, graph, tmp_path):
    timing_cache.write_cache(tmp_path / "timing.cache", b"sm89 kernels", *HERE)
    with pytest.raises(UserError, match=r"TensorRT 10.3.0.30 does not take .*timing.cache: it is of another TensorRT"):
        build(graph, tmp_path)


def test_an_origin_that_cannot_be_read(orin, graph, tmp_path):
    timing_cache.write_cache(tmp_path / "timing.cache", MADE, *HERE)
    (tmp_path / "timing.cache.json").write_text("{")
    with pytest.raises(UserError, match=r"timing.cache.json cannot be read, it is no JSON object"):
        build(graph, tmp_path)


def test_a_failed_build_leaves_the_cache_as_it_was(orin, graph, tmp_path):
    build(graph, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    orin(plan=None)
    with pytest.raises(EngineError, match="no tactic"):
        build(graph, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_without_a_cache_none_is_made(orin, graph, tmp_path):
    use, _ = build(graph, tmp_path, timing_cache=None)
    assert use is None and names_in(tmp_path) == ["x.engine", "x.engine.json"]


def test_a_copy_is_pinned_under_its_own_name(tmp_path):
    timing_cache.write_cache(tmp_path / "timing.cache", MADE, *HERE)
    timing_cache.copy_cache(tmp_path / "timing.cache", tmp_path / "orin.tc")
    assert timing_cache.read_cache(tmp_path / "orin.tc", *HERE, frozen=True) == MADE
    subprocess.run(["sha256sum", "--check", "--strict", "orin.tc.sha256"], cwd=tmp_path, check=True)
    (tmp_path / "timing.cache.json").unlink()
    timing_cache.copy_cache(tmp_path / "timing.cache", tmp_path / "orin.tc")
    assert not (tmp_path / "orin.tc.json").exists()
