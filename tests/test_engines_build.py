"""Real builds with TensorRT-RTX of a small graph that holds what the real ones hold, and fakes for what needs a GPU."""

import errno
import hashlib
import json

import onnx
import pytest
from helpers_engines import fake_tensorrt
from helpers_graphs import FLOAT, INT32, node, proto, save, tiny_module, tiny_spec

from sttm_export.bundle.records import EngineRecord
from sttm_export.contracts.target import find_target
from sttm_export.engines import build as build_module
from sttm_export.engines.api import Api
from sttm_export.engines.build import available_api, build_engine
from sttm_export.engines.faults import EngineError, UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.engines.targets import build_targets, capabilities_for
from sttm_export.errors import UserError
from sttm_export.graphs.export import data_file, export_graph

RTX, ORIN = find_target("rtx"), find_target("jetson-orin-jp62")


@pytest.fixture(scope="module", params=["float32", "float16"])
def graph(request, tmp_path_factory):
    return export_graph(tiny_module(request.param), tiny_spec(request.param), tmp_path_factory.mktemp("graph"))


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture
def orin_here(monkeypatch):
    """A machine that looks like an Orin, with a TensorRT that is a fake."""

    def put(module, capability="sm87", machine="aarch64"):
        monkeypatch.setattr(build_module, "gpu_capability", lambda: capability)
        monkeypatch.setattr(build_module.platform, "machine", lambda: machine)
        monkeypatch.setattr(build_module, "load_api", lambda flavour: Api(flavour, module))

    return put


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_rank_0_inputs_bool_outputs_and_int32_indices_build(rtx, graph, tmp_path):
    """TensorRT-RTX takes rank-0 int32 and float32 inputs, rank-0 bool outputs and INT32 indices, in both precisions."""
    graph_types = {row.name: row.type.tensor_type for row in onnx.load(graph, load_external_data=False).graph.input}
    assert not graph_types["num_frames"].shape.dim and not graph_types["threshold"].shape.dim
    seen = []
    result = build_engine(graph, RTX, "sm86", tmp_path / "e" / "tiny.engine", on_progress=lambda *row: seen.append(row))
    assert result.status == "built" and result.reason == "" and result.size == result.path.stat().st_size > 1000
    assert result.seconds > 0 and result.scratch is not None and result.tensorrt.startswith("1.")
    assert result.options["tf32"] is False and result.options["strongly_typed"] is True
    assert seen[0][1] == 0.0 and seen[-1][1] == 1.0 and [row[1] for row in seen] == sorted(row[1] for row in seen)
    assert names_in(tmp_path / "e") == ["tiny.engine", "tiny.engine.json"]


def test_sidecar_tells_where_the_engine_is_from(rtx, graph, tmp_path):
    result = build_engine(graph, RTX, "sm89", tmp_path / "tiny.engine")
    sidecar = json.loads((tmp_path / "tiny.engine.json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert sidecar["graph_sha256"] == hashlib.sha256(graph.read_bytes()).hexdigest()
    assert sidecar["compute_capability"] == "sm89" and sidecar["target"] == "rtx"
    assert sidecar["tensorrt"] == f"tensorrt-rtx {result.tensorrt}" and sidecar["options"]["tf32"] is False
    assert str(tmp_path) not in json.dumps(sidecar)


def test_engine_bytes_are_those_of_tensorrt(rtx, graph, tmp_path):
    """Two builds need not be equal byte for byte: TensorRT writes the inputs and outputs in an order that varies."""
    first = build_engine(graph, RTX, "sm86", tmp_path / "a.engine").path.read_bytes()
    second = build_engine(graph, RTX, "sm86", tmp_path / "b.engine").path.read_bytes()
    assert first[:4] == b"vtrt" and len(first) == len(second)


def test_log_names_no_folder_of_this_machine(rtx, graph, tmp_path):
    result = build_engine(graph, RTX, "sm86", tmp_path / "a.engine")
    assert "Input filename:   tiny.onnx" in "\n".join(result.log) and str(graph.parent) not in "\n".join(result.log)


def test_parser_errors_name_node_and_operator(rtx, tmp_path):
    model = proto([node("MatMul", ["x", "x"], ["y"])], [("x", INT32, [4, 4])], [("y", INT32, [4, 4])])
    with pytest.raises(EngineError, match=r"refuses graph.onnx: node 'MatMul_y' \(MatMul\): .*INT32"):
        build_engine(save(model, tmp_path), RTX, "sm86", tmp_path / "out" / "x.engine")
    assert list((tmp_path / "out").iterdir()) == []


def test_builder_errors_are_told(rtx, tmp_path):
    import numpy as np

    model = proto(
        [node("TopK", ["x", "k"], ["y", "i"])],
        [("x", FLOAT, [2, 4096])],
        [("y", FLOAT, [2, 3841])],
        {"k": np.array([3841])},
    )
    with pytest.raises(EngineError, match=r"could not build graph.onnx: .*K exceeds the maximum value allowed"):
        build_engine(save(model, tmp_path), RTX, "sm86", tmp_path / "x.engine")
    assert names_in(tmp_path) == ["graph.onnx"]


def test_missing_weights_are_told(rtx, graph, tmp_path):
    (tmp_path / graph.name).write_bytes(graph.read_bytes())
    assert data_file(graph).exists()
    with pytest.raises(EngineError, match=r"refuses tiny.onnx"):
        build_engine(tmp_path / graph.name, RTX, "sm86", tmp_path / "x.engine")


def test_a_build_can_be_stopped(rtx, graph, tmp_path):
    def stop(phase, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(graph, RTX, "sm86", tmp_path / "x.engine", on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_os_error_and_prints_nothing(rtx, graph, tmp_path, capfd):
    """TensorRT catches what its writer raises and prints a traceback of it; the error waits instead."""
    (tmp_path / "tiny.engine.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        build_engine(graph, RTX, "sm86", tmp_path / "tiny.engine")
    assert full.value.errno == errno.ENOSPC
    printed = capfd.readouterr().err
    assert "Exception caught" not in printed and "api.py" not in printed
    assert names_in(tmp_path) == []


def test_without_capability_an_rtx_engine_is_portable(rtx, graph, tmp_path):
    assert build_engine(graph, RTX, None, tmp_path / "x.engine").options["compute_capability"] == "portable"


def test_unknown_capability_is_a_user_error(graph, tmp_path):
    with pytest.raises(
        UserError, match=r"Target 'rtx' has no compute capability 'sm87'; give one of: sm75, sm80, sm86, sm89"
    ):
        build_engine(graph, RTX, "sm87", tmp_path / "x.engine")


def test_missing_graph_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"none.onnx is missing; give the path of an exported graph"):
        build_engine(tmp_path / "none.onnx", RTX, "sm86", tmp_path / "x.engine")


def test_no_gpu_is_skipped_aloud(orin_here, graph, tmp_path):
    orin_here(fake_tensorrt(), capability=None, machine="x86_64")
    result = build_engine(graph, ORIN, None, tmp_path / "x.engine")
    assert result.status == "skipped" and result.path is None and list(tmp_path.iterdir()) == []
    assert result.reason == (
        "TensorRT 10.3 builds for jetson-orin-jp62 only on its own GPU (sm87), and this machine has no NVIDIA GPU; "
        "build on the device with the bundle's device kit (bash BUNDLE/device/build.sh), or use --target rtx here."
    )


@pytest.mark.parametrize(
    ("capability", "machine", "version", "message"),
    [
        ("sm90", "aarch64", "10.3.0", "here is sm90 on aarch64; build on the device"),
        ("sm87", "x86_64", "10.3.0", "here is sm87 on x86_64; build on the device"),
        (
            "sm87",
            "aarch64",
            "10.13.3.9",
            "jetson-orin-jp62 has TensorRT 10.3, here is 10.13.3.9, and an engine runs only with",
        ),
    ],
)
def test_other_machines_and_versions_are_told_apart(orin_here, capability, machine, version, message):
    orin_here(fake_tensorrt(version), capability, machine)
    with pytest.raises(UnavailableError, match=message):
        available_api(ORIN)


def test_a_host_gpu_is_no_device(orin_here):
    orin_here(fake_tensorrt("11.4.1"), "sm87", "x86_64")
    with pytest.raises(UnavailableError, match="build on a host with such a GPU"):
        available_api(find_target("x86-trt114"))
    orin_here(fake_tensorrt("11.4.1"), "sm89", "x86_64")
    assert available_api(find_target("x86-trt114")).version == "11.4.1"


def test_full_tensorrt_takes_the_same_path(orin_here, graph, tmp_path):
    orin_here(module := fake_tensorrt(plan=b"plan of an Orin"))
    result = build_engine(graph, ORIN, "sm87", tmp_path / "x.engine")
    assert result.path.read_bytes() == b"plan of an Orin" and result.warnings[-1] == "a warning"
    assert module.made.network_flags == [2] and module.made.configs[0].flags == set()
    sidecar = json.loads((tmp_path / "x.engine.json").read_text())
    assert sidecar["compute_capability"] == "sm87" and "reading tiny.onnx" in sidecar["warnings"]
    assert sidecar["timings"] == ""


def test_full_tensorrt_that_fails_says_why(orin_here, graph, tmp_path):
    orin_here(fake_tensorrt(plan=None))
    with pytest.raises(EngineError, match=r"tensorrt 10.3.0.30 could not build tiny.onnx: Error Code 4: no tactic"):
        build_engine(graph, ORIN, "sm87", tmp_path / "x.engine")


def test_all_targets_in_one_call(rtx, graph, tmp_path):
    seen = []
    records = build_targets([graph], [RTX, ORIN], ["sm86"], tmp_path / "engines", lambda *row: seen.append(row))
    built, skipped = records
    assert (built.status, built.file, built.compute_capability) == ("built", "rtx/tiny.sm86.engine", "sm86")
    engine = tmp_path / "engines" / built.file
    assert built.sha256 == hashlib.sha256(engine.read_bytes()).hexdigest() and built.bytes == engine.stat().st_size
    assert "Engine generation completed" in (tmp_path / "engines" / built.log).read_text()
    assert (skipped.status, skipped.file, skipped.compute_capability) == ("skipped", "", "sm87") and skipped.reason
    assert seen[-1] == ("tiny, jetson-orin-jp62: skipped", 1.0)
    # Two engines make one bar: the first fills half of it.
    first = [fraction for words, fraction in seen if words.startswith("tiny, rtx sm86: ")]
    assert first == sorted(first) and first[0] == 0.0 and first[-1] == 0.5
    assert [EngineRecord(**json.loads(json.dumps(record.to_json()))) for record in records] == records


def test_one_failure_does_not_stop_the_others(rtx, graph, tmp_path):
    bad = save(
        proto([node("MatMul", ["x", "x"], ["y"])], [("x", INT32, [4, 4])], [("y", INT32, [4, 4])]), tmp_path, "bad.onnx"
    )
    failed, built = build_targets([bad, graph], [RTX], ["sm86"], tmp_path / "engines")
    assert (failed.status, built.status) == ("failed", "built") and "MatMul" in failed.reason and not failed.file
    assert "MatMul" in (tmp_path / "engines" / failed.log).read_text()


def test_which_capabilities_are_built():
    assert capabilities_for(RTX, []) == ["sm86", "sm89"] == [*capabilities_for(RTX, ["sm86", "sm89", "sm86"])]
    assert capabilities_for(RTX, ["sm120"]) == ["sm120"] and capabilities_for(ORIN, ["sm120"]) == [None]
    assert capabilities_for(ORIN, ["sm87", "sm86"]) == ["sm87"]


def test_capability_of_no_target_is_a_user_error(tmp_path):
    with pytest.raises(
        UserError,
        match=r"Unknown compute capability 'sm99'; valid are, by target, rtx: sm75, .*; jetson-orin-jp62: sm87",
    ):
        build_targets([], [RTX, ORIN], ["sm86", "sm99"], tmp_path)


def test_gpu_question_gets_an_answer_here():
    capability = gpu_capability()
    assert capability is None or capability.startswith("sm")
