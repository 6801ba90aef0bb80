import json
import platform

import pytest
from helpers_standins import pretend_gpu

from sttm_export.bundle.records import EngineRecord
from sttm_export.engines.compatibility import Selection, select_engines
from sttm_export.errors import UserError

pytest.importorskip("tensorrt_rtx_bindings", reason="the stand-in stands on TensorRT-RTX")
GRAPHS = ("vision_encoder", "token_merger")


@pytest.fixture
def gpu(monkeypatch):
    return pretend_gpu(monkeypatch)


def built(folder, target, capability, graph, tensorrt="tensorrt 10.3.0.30"):
    """An engine file with a sidecar; selection reads no more of it."""
    path = folder / target / f"{graph}.{capability}.engine"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"engine")
    here = f"{platform.system()} {platform.machine()}"
    row = {"engine": path.name, "tensorrt": tensorrt, "compute_capability": capability, "platform": here}
    path.with_name(f"{path.name}.json").write_text(json.dumps(row))
    return EngineRecord(target, capability, graph, "built", file=f"{target}/{path.name}")


def of(folder, target, *capabilities, **more):
    return [built(folder, target, name, graph, **more) for name in capabilities for graph in GRAPHS]


def test_the_engines_of_this_gpu_are_found_among_others(gpu, tmp_path):
    records = of(tmp_path, "thor", "sm110") + of(tmp_path, "orin", "sm86", "sm87")
    found = select_engines(tmp_path, records, GRAPHS)
    assert found == Selection("orin", {name: tmp_path / "orin" / f"{name}.sm87.engine" for name in GRAPHS})


def test_a_target_must_have_every_graph(gpu, tmp_path):
    records = [built(tmp_path, "first", "sm87", "vision_encoder"), *of(tmp_path, "second", "sm87")]
    assert select_engines(tmp_path, records, GRAPHS).target == "second"
    with pytest.raises(UserError, match=r"\(first: token_merger was not built\)"):
        select_engines(tmp_path, records, GRAPHS, "first")


def test_no_engines_at_all(gpu, tmp_path):
    with pytest.raises(
        UserError, match=r"^The bundle has no engines; build it on this machine with `sttm-export build"
    ):
        select_engines(tmp_path, [], GRAPHS)
    with pytest.raises(UserError, match="has no engines for 'orin' or any other target"):
        select_engines(tmp_path, [], GRAPHS, "orin")


def test_an_unknown_target(gpu, tmp_path):
    with pytest.raises(UserError, match=r"no engines for 'orn'\. Did you mean 'orin'"):
        select_engines(tmp_path, of(tmp_path, "orin", "sm87"), GRAPHS, "orn")


def test_why_none_runs_here_target_by_target(gpu, tmp_path):
    records = of(tmp_path, "rtx", "sm86", tensorrt="tensorrt-rtx 1.0.0")
    records += of(tmp_path, "thor", "sm110")
    records += [EngineRecord("jp72", "sm87", graph, "skipped", "Built on the device.") for graph in GRAPHS]
    with pytest.raises(UserError) as caught:
        select_engines(tmp_path, records, GRAPHS)
    text = str(caught.value)
    assert "rtx: it was built with tensorrt-rtx 1.0.0, here is tensorrt-rtx " in text
    assert "thor: it was built for a GPU of compute capability sm110, this one has sm87" in text
    assert "jp72: Built on the device)" in text
    assert text.endswith("`bash device/build.sh`.")


def test_no_tensorrt_and_no_file(gpu, tmp_path, monkeypatch):
    from sttm_export.engines import api

    records = of(tmp_path, "orin", "sm87")
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\(orin: TensorRT is not installed; JetPack brings it"):
        select_engines(tmp_path, records, GRAPHS)
    for path in (tmp_path / "orin").glob("vision_encoder*.engine"):
        path.unlink()
    with pytest.raises(UserError, match=r"\(orin: vision_encoder.sm87.engine is missing\)"):
        select_engines(tmp_path, records, GRAPHS)
