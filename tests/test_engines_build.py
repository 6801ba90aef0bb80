"""Real builds with TensorRT-RTX of a small graph that holds what the real ones hold; full TensorRT on the stand-in."""

import errno
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import onnx
import pytest
from helpers_children import plant
from helpers_graphs import FLOAT, INT32, node, proto, save, tiny_module, tiny_spec
from helpers_standins import pretend_gpu

from sttm_export.bundle.records import EngineRecord
from sttm_export.contracts.target import find_target
from sttm_export.engines.api import BuildOptions, EngineError, UnavailableError
from sttm_export.engines.build import (
    EngineRequest,
    build_engine,
    build_engines,
    capabilities_for,
    check_available,
    check_options,
    plan_engines,
)
from sttm_export.engines.driver import gpu_capability
from sttm_export.engines.progress import quiet
from sttm_export.errors import UserError
from sttm_export.graphs.export import data_file, export_graph

RTX, ORIN = find_target("rtx"), find_target("jetson-orin-jp62")
trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture(scope="module", params=["float32", "float16"])
def graph(request, tmp_path_factory):
    return export_graph(tiny_module(request.param), tiny_spec(request.param), tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return export_graph(tiny_module("float16"), tiny_spec("float16"), tmp_path_factory.mktemp("small"))


@pytest.fixture
def orin(monkeypatch):
    """An Orin: driver and TensorRT are stand-ins, here and in children; parser and builder are NVIDIA's."""
    return pretend_gpu(monkeypatch, cc="8.7", machine="aarch64")


def build(graph, engine, capability="sm86", target=RTX, on_progress=quiet, **options):
    return build_engine(EngineRequest(graph, target, capability, BuildOptions(**options)), engine, on_progress)


def integers(folder):
    """A graph that NVIDIA's parser refuses."""
    model = proto([node("MatMul", ["x", "x"], ["y"])], [("x", INT32, [4, 4])], [("y", INT32, [4, 4])])
    return save(model, folder, "bad.onnx")


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def sidecar(engine):
    return json.loads(engine.with_name(f"{engine.name}.json").read_text())


def test_rank_0_inputs_bool_outputs_and_int32_indices_build(graph, tmp_path):
    """TensorRT-RTX takes rank-0 int32 and float32 inputs, rank-0 bool outputs and INT32 indices, in both precisions."""
    graph_types = {row.name: row.type.tensor_type for row in onnx.load(graph, load_external_data=False).graph.input}
    assert not graph_types["num_frames"].shape.dim
    assert not graph_types["threshold"].shape.dim
    seen = []
    result = build(graph, tmp_path / "e" / "tiny.engine", on_progress=lambda *row: seen.append(row))
    assert result.status == "built"
    assert result.reason == ""
    assert result.size == result.path.stat().st_size > 1000
    assert result.seconds > 0
    assert result.scratch is not None
    assert result.tensorrt.startswith("1.")
    assert result.options["tf32"] is False
    assert result.options["strongly_typed"] is True
    assert [row[0] for row in seen[:2]] == ["starting TensorRT", "reading the graph"]
    assert seen[0][1] == 0.0
    assert seen[-1][1] == 1.0
    assert [row[1] for row in seen] == sorted(row[1] for row in seen)
    assert names_in(tmp_path / "e") == ["tiny.engine", "tiny.engine.json"]


def test_sidecar_and_log_tell_where_the_engine_is_from(small, tmp_path):
    result = build(small, tmp_path / "tiny.engine", "sm89")
    found = sidecar(result.path)
    assert result.path.read_bytes()[:4] == b"vtrt"
    assert found["sha256"] == result.sha256 == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert found["graph_sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    assert found["compute_capability"] == "sm89"
    assert found["target"] == "rtx"
    assert found["timings"] == ""
    assert found["tensorrt"] == f"tensorrt-rtx {result.tensorrt}"
    assert found["options"]["tf32"] is False
    log = "\n".join(result.log)
    assert "Input filename:   tiny.onnx" in log
    assert str(tmp_path) not in json.dumps(found)
    assert str(small.parent) not in json.dumps(found) + log


def test_without_capability_an_rtx_engine_is_portable(small, tmp_path):
    assert build(small, tmp_path / "x.engine", None).options["compute_capability"] == "portable"


def test_refusals_come_through(tmp_path):
    with pytest.raises(EngineError, match=r"refuses bad.onnx: node 'MatMul_y' \(MatMul\): .*INT32"):
        build(integers(tmp_path), tmp_path / "out" / "x.engine")
    assert names_in(tmp_path / "out") == []


def test_builder_errors_are_told(tmp_path):
    import numpy as np

    rows = [("x", FLOAT, [2, 4096])], [("y", FLOAT, [2, 3841])], {"k": np.array([3841])}
    model = proto([node("TopK", ["x", "k"], ["y", "i"])], *rows)
    with pytest.raises(EngineError, match=r"could not build graph.onnx: .*K exceeds the maximum value allowed"):
        build(save(model, tmp_path), tmp_path / "x.engine")
    assert names_in(tmp_path) == ["graph.onnx"]


def test_a_workspace_that_is_too_small_is_told(small, tmp_path):
    with pytest.raises(EngineError, match="no kernel fits into a workspace of 1 MiB; give a larger --workspace"):
        build(small, tmp_path / "x.engine", workspace_mib=1)
    assert names_in(tmp_path) == []


def test_missing_weights_are_told(graph, tmp_path):
    (tmp_path / graph.name).write_bytes(graph.read_bytes())
    assert data_file(graph).exists()
    with pytest.raises(EngineError, match=r"refuses tiny.onnx"):
        build(tmp_path / graph.name, tmp_path / "x.engine")


def test_missing_graph_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"none.onnx is missing; give the path of an exported graph"):
        build(tmp_path / "none.onnx", tmp_path / "x.engine")


def children():
    """Processes of this one, zombies too."""
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(number) for task in tasks for number in task.read_text().split()}


def test_what_progress_raises_ends_the_build(small, tmp_path):
    def stop(phase, fraction):
        if phase == "reading the graph":
            raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        build(small, tmp_path / "x.engine", on_progress=stop)
    assert names_in(tmp_path) == []
    assert children() <= before


def test_an_interrupt_does_not_wait_for_tensorrt(small, tmp_path):
    """The signal comes while TensorRT-RTX is at work."""

    def press(phase, fraction):
        if phase == "Building engine":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(small, tmp_path / "x.engine", on_progress=press)
    assert names_in(tmp_path) == []


def test_a_full_disk_is_an_os_error(small, tmp_path, capfd):
    """TensorRT catches what its writer raises and prints a traceback of it; the error waits instead."""
    (tmp_path / "tiny.engine.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as full:
        build(small, tmp_path / "tiny.engine")
    assert full.value.errno == errno.ENOSPC
    assert names_in(tmp_path) == []
    assert "Traceback" not in capfd.readouterr().err


def test_what_lies_beside_a_graph_is_not_imported(small, tmp_path, monkeypatch):
    """A bundle may come from anybody."""
    shutil.copytree(small.parent, tmp_path / "bundle")
    plant(tmp_path / "bundle", tmp_path / "ran")
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, f":{os.environ.get(name, '')}:")
    monkeypatch.chdir(tmp_path / "bundle")
    assert build(Path(small.name), Path("x.engine")).status == "built"
    assert not (tmp_path / "ran").exists()


class TestFullTensorrt:
    def test_takes_the_same_path(self, orin, small, tmp_path):
        orin.knob(log=tmp_path / "calls")
        result = build(small, tmp_path / "x.engine", None, ORIN, workspace_mib=64)
        strong = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        rows = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
        built = next(row for row in rows if row["call"] == "Builder.build_serialized_network")
        assert built["flags"] == []
        assert built["workspace"] == 64 << 20
        assert next(row for row in rows if row["call"] == "Builder.create_network")["arguments"] == [1 << strong]
        assert result.path.read_bytes()[:4] == b"ftrt"
        found = sidecar(result.path)
        assert (found["compute_capability"], found["tensorrt"]) == ("sm87", "tensorrt 10.3.0.30")

    def test_that_fails_says_why(self, orin, small, tmp_path):
        orin.knob(no_build="yes")
        with pytest.raises(EngineError, match=r"tensorrt 10.3.0.30 could not build tiny.onnx: Error Code 10: Internal"):
            build(small, tmp_path / "x.engine", None, ORIN)

    def test_keeps_kernel_times_for_the_next_build(self, orin, small, tmp_path):
        assert build(small, tmp_path / "x.engine", None, ORIN).timings == "new"
        times = (tmp_path / "timing.cache").read_bytes()
        assert (
            build(small, tmp_path / "x.engine", None, ORIN).timings
            == "kept"
            == sidecar(tmp_path / "x.engine")["timings"]
        )
        assert (tmp_path / "timing.cache").read_bytes() == times

    @pytest.mark.parametrize("change", [(b"8.7", b"8.9"), (b"10.3.0.30", b"10.3.0.26"), (b"timings", b"damaged")])
    def test_measures_anew_where_they_do_not_fit(self, orin, small, tmp_path, change):
        build(small, tmp_path / "x.engine", None, ORIN)
        times = (tmp_path / "timing.cache").read_bytes()
        (tmp_path / "timing.cache").write_bytes(times.replace(*change))
        assert build(small, tmp_path / "x.engine", None, ORIN).timings == "new"
        assert (tmp_path / "timing.cache").read_bytes() == times

    def test_leaves_everything_as_it_was_where_a_build_fails(self, orin, small, tmp_path):
        build(small, tmp_path / "x.engine", None, ORIN)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        orin.knob(no_build="yes")
        with pytest.raises(EngineError):
            build(small, tmp_path / "x.engine", None, ORIN)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_is_skipped_aloud_where_there_is_no_gpu(self, orin, small, tmp_path):
        orin.knob(cc="none")
        result = build(small, tmp_path / "out" / "x.engine", None, ORIN)
        assert result.status == "skipped"
        assert result.path is None
        assert names_in(tmp_path) == []
        assert result.reason == (
            "TensorRT 10.3 builds for jetson-orin-jp62 only on its own GPU (sm87), and this machine has no NVIDIA GPU; "
            "build on the device with the bundle's device kit (bash BUNDLE/device/build.sh), or use --target rtx here."
        )


@pytest.mark.parametrize(
    ("cc", "machine", "version", "message"),
    [
        ("9.0", "aarch64", "10.3.0", "here is sm90 on aarch64; build on the device"),
        ("8.7", "x86_64", "10.3.0", "here is sm87 on x86_64; build on the device"),
        ("8.7", "aarch64", "10.13.3.9", "jetson-orin-jp62 has TensorRT 10.3, here is 10.13.3.9, and an engine runs"),
    ],
)
def test_other_machines_and_versions_are_told_apart(monkeypatch, cc, machine, version, message):
    pretend_gpu(monkeypatch, cc=cc, machine=machine, tensorrt=version)
    with pytest.raises(UnavailableError, match=message):
        check_available(ORIN)


def test_a_host_gpu_is_no_device(monkeypatch):
    gpu = pretend_gpu(monkeypatch, cc="8.7", machine="x86_64", tensorrt="11.4.1")
    with pytest.raises(UnavailableError, match="build on a host with such a GPU"):
        check_available(find_target("x86-trt114"))
    gpu.knob(cc="8.9")
    check_available(find_target("x86-trt114"))


def test_no_tensorrt_is_said_by_the_child(orin, monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    with pytest.raises(UnavailableError, match=r"tensorrt is installed but does not load \(libnvinfer"):
        check_available(ORIN)


def test_all_targets_in_one_call(small, tmp_path):
    seen = []
    requests = plan_engines([small], [RTX, ORIN], ["sm86"])
    records = build_engines(requests, tmp_path / "engines", lambda *row: seen.append(row))
    built, skipped = records
    assert (built.status, built.file, built.compute_capability) == ("built", "rtx/tiny.sm86.engine", "sm86")
    engine = tmp_path / "engines" / built.file
    assert built.sha256 == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert built.bytes == engine.stat().st_size
    assert "Engine generation completed" in (tmp_path / "engines" / built.log).read_text()
    assert (skipped.status, skipped.file, skipped.compute_capability) == ("skipped", "", "sm87")
    assert skipped.reason
    assert seen[-1] == ("tiny, jetson-orin-jp62: skipped", 1.0)
    # Two engines make one bar: the first fills half of it.
    first = [fraction for words, fraction in seen if words.startswith("tiny, rtx sm86: ")]
    assert first == sorted(first)
    assert first[0] == 0.0
    assert first[-1] == 0.5
    assert [EngineRecord(**json.loads(json.dumps(record.to_json()))) for record in records] == records


def test_one_failure_does_not_stop_the_others(small, tmp_path):
    requests = plan_engines([integers(tmp_path), small], [RTX], ["sm86"])
    failed, built = build_engines(requests, tmp_path / "engines")
    assert (failed.status, built.status) == ("failed", "built")
    assert "MatMul" in failed.reason
    assert not failed.file
    assert "MatMul" in (tmp_path / "engines" / failed.log).read_text()


def test_which_capabilities_are_built():
    assert capabilities_for(RTX, []) == ["sm86", "sm89"] == [*capabilities_for(RTX, ["sm86", "sm89", "sm86"])]
    assert capabilities_for(RTX, ["sm120"]) == ["sm120"]
    assert capabilities_for(ORIN, ["sm120"]) == [None]
    assert capabilities_for(ORIN, ["sm87", "sm86"]) == ["sm87"]


def test_capability_of_no_target_is_a_user_error():
    message = r"Unknown compute capability 'sm99'; valid are, by target, rtx: sm75, .*; jetson-orin-jp62: sm87"
    with pytest.raises(UserError, match=message):
        plan_engines([], [RTX, ORIN], ["sm86", "sm99"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(workspace_mib=0), "--workspace 0 is not possible; give the builder's scratch memory in MiB"),
        (BuildOptions(workspace_mib=-1), "--workspace -1 is not possible"),
        (BuildOptions(optimization_level=6), "Optimization level 6 is not possible; give one from 0"),
        (BuildOptions(optimization_level=-1), "Optimization level -1"),
    ],
)
def test_what_is_not_possible_is_refused_with_the_reason(options, message):
    with pytest.raises(UserError, match=message) as caught:
        plan_engines([], [RTX], options=options)
    assert "\n" not in str(caught.value)
    check_options(BuildOptions(workspace_mib=1, optimization_level=0))


def test_gpu_question_gets_an_answer_here():
    capability = gpu_capability()
    assert capability is None or capability.startswith("sm")


def test_a_process_that_dies_in_the_middle(small, tmp_path):
    """Killed while it builds: an answer, and nothing is left."""
    before = children()

    def kill(phase, fraction):
        if phase == "Building engine":
            for number in children() - before:
                os.kill(number, signal.SIGKILL)

    with pytest.raises(EngineError, match=r"its process was ended by the system, most likely because memory ran out"):
        build(small, tmp_path / "x.engine", on_progress=kill)
    assert names_in(tmp_path) == []
