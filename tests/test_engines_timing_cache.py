"""Kernel times are kept beside the engines; those that TensorRT does not take are measured anew, aloud."""

import json

import pytest
from helpers_engines import fake_tensorrt
from helpers_graphs import tiny_module, tiny_spec

from sttm_export.contracts.target import find_target
from sttm_export.engines import build as build_module
from sttm_export.engines.api import Api
from sttm_export.engines.build import build_engine
from sttm_export.engines.faults import EngineError
from sttm_export.graphs.export import export_graph

ORIN = find_target("jetson-orin-jp62")
MADE = b"sm87 kernels"


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


def build(graph, folder, name="timing.cache"):
    result = build_engine(graph, ORIN, None, folder / "x.engine", timing_cache=name and folder / name)
    assert json.loads((folder / "x.engine.json").read_text())["timings"] == result.timings
    return result.timings


def test_times_are_kept_for_the_next_build(orin, graph, tmp_path):
    assert build(graph, tmp_path) == "new"
    assert (tmp_path / "timing.cache").read_bytes() == MADE
    assert build(graph, tmp_path) == "kept"


@pytest.mark.parametrize("content", [b"sm89 kernels", b"damaged"])
def test_times_that_tensorrt_does_not_take_are_made_anew(orin, graph, tmp_path, content):
    (tmp_path / "timing.cache").write_bytes(content)
    assert build(graph, tmp_path) == "new"
    assert (tmp_path / "timing.cache").read_bytes() == MADE


def test_a_failed_build_leaves_them_as_they_were(orin, graph, tmp_path):
    build(graph, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    orin(plan=None)
    with pytest.raises(EngineError, match="no tactic"):
        build(graph, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_none_are_kept_unasked(orin, graph, tmp_path):
    assert build(graph, tmp_path, name=None) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.engine", "x.engine.json"]
