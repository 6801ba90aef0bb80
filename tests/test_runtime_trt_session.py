"""The TensorRT session, every line of it, on a pretended GPU: see standins/sitecustomize.py for what is real there."""

import threading

import numpy as np
import pytest
from helpers_graphs import HALF, node, proto, save
from helpers_standins import pretend_gpu
from helpers_trt import (
    MIXED,
    SUMS,
    mixed_inputs,
    mixed_outputs,
    rtx_api,
    write_engine,
    write_mixed,
    write_sidecar,
    write_sums,
)

from sttm_export.bundle.records import sha256_of
from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.engines.api import load_api
from sttm_export.engines.cuda import COPY, KERNEL
from sttm_export.engines.driver import CudaError
from sttm_export.errors import UserError
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.trt_session import TrtSession

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture
def gpu(monkeypatch):
    return pretend_gpu(monkeypatch)


@pytest.fixture
def graph(tmp_path):
    return write_mixed(tmp_path)


@pytest.fixture
def engine(gpu, graph):
    return write_engine(graph, graph.with_name("mixed.engine"))


def same(outputs, expected):
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(outputs[name], array)
        assert outputs[name].dtype == array.dtype
        assert outputs[name].shape == array.shape


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_runs_with_every_dtype_and_leaves_nothing_behind(gpu, graph, tmp_path, flavour, cuda_graph):
    api = rtx_api(gpu) if flavour == "tensorrt-rtx" else None
    engine = write_engine(graph, tmp_path / "mixed.engine", api=api)
    with TrtSession(engine, MIXED, cuda_graph=cuda_graph, api=api) as session:
        assert session.backend.startswith(f"{flavour} 1")
        assert session.graph is MIXED
        assert session.backend.endswith("as a CUDA graph") == cuda_graph
        for k in (2, 9, -1):
            same(session.run(mixed_inputs(k)), mixed_outputs(k))
        assert gpu.driver.live()["device"] == 6
    assert gpu.driver.live() == {}


def test_memory_is_allocated_once(gpu, engine):
    with TrtSession(engine, MIXED) as session:
        session.run(mixed_inputs())
        before = gpu.log.names().count("cuMemAlloc_v2"), gpu.log.names().count("cuMemHostAlloc")
        session.run(mixed_inputs())
        assert (gpu.log.names().count("cuMemAlloc_v2"), gpu.log.names().count("cuMemHostAlloc")) == before == (6, 6)


def test_outputs_are_new_arrays(engine):
    with TrtSession(engine, MIXED) as session:
        first = session.run(mixed_inputs(2))
        second = session.run(mixed_inputs(9))
    same(first, mixed_outputs(2))
    same(second, mixed_outputs(9))


def test_a_cuda_graph_is_captured_once_and_then_launched(gpu, engine):
    with TrtSession(engine, MIXED, cuda_graph=True) as session:
        for k in (1, 2, 3):
            same(session.run(mixed_inputs(k)), mixed_outputs(k))
    names = gpu.log.names()
    assert names.count("cuStreamBeginCapture_v2") == names.count("cuGraphInstantiateWithFlags") == 1
    assert names.count("cuGraphLaunch") == 3, "once to try it, and then for the second and third run"
    assert names.count("Context.execute_async_v3") == 2, "once to warm up, once to capture"


def test_tensorrt_rtx_makes_its_cuda_graphs_itself(gpu, graph, tmp_path):
    api = rtx_api(gpu)
    engine = write_engine(graph, tmp_path / "mixed.engine", api=api)
    with TrtSession(engine, MIXED, cuda_graph=True, api=api) as session:
        session.run(mixed_inputs())
    assert "cuStreamBeginCapture_v2" not in gpu.log.names()
    contexts = [row for row in gpu.log.calls if row["call"] == "Engine.create_execution_context"]
    assert contexts[0]["arguments"] == ["WHOLE_GRAPH_CAPTURE"]
    del api.module.CudaGraphStrategy
    with pytest.raises(UserError, match="has no CUDA graphs; leave --cuda-graph out"):
        TrtSession(engine, MIXED, cuda_graph=True, api=api)
    assert gpu.driver.live() == {}


def test_an_engine_that_cannot_be_captured_says_so(gpu, engine):
    gpu.knob(no_capture="yes")
    with TrtSession(engine, MIXED, cuda_graph=True) as session, pytest.raises(UserError) as caught:
        session.run(mixed_inputs())
    text = str(caught.value)
    assert text.startswith("mixed.engine cannot be captured as a CUDA graph (")
    assert "is capturing" in text
    assert text.endswith("; run it without --cuda-graph.")
    assert gpu.driver.live() == {}
    with TrtSession(engine, MIXED) as session:
        same(session.run(mixed_inputs()), mixed_outputs())


def test_a_capture_that_holds_nothing_is_found_out(gpu, engine):
    """Its launches would leave the outputs of the run before."""
    gpu.knob(empty_capture="yes")
    with TrtSession(engine, MIXED, cuda_graph=True) as session:
        for _ in range(2):
            with pytest.raises(UserError, match=r"as a CUDA graph \(The graph leaves 'y' untouched\); run it without"):
                session.run(mixed_inputs())
    assert gpu.driver.live() == {}


def test_times_are_the_gpus(gpu, engine):
    with TrtSession(engine, MIXED) as session:
        taken = session.measure(mixed_inputs(), 5)
    assert len(taken) == 5
    assert all(0 < value < 10_000 for value in taken)
    assert gpu.log.names().count("cuEventRecord") == 10
    assert gpu.driver.live() == {}


def test_inputs_are_checked(engine):
    with TrtSession(engine, MIXED) as session, pytest.raises(UserError, match="'x' is float32, expected float16"):
        session.run({**mixed_inputs(), "x": np.zeros((2, 3), np.float32)})


def test_runs_from_another_thread(engine):
    """CUDA keeps the current context a thread; a run makes it current."""
    found = []
    with TrtSession(engine, MIXED) as session:
        thread = threading.Thread(target=lambda: found.append(session.run(mixed_inputs())))
        thread.start()
        thread.join()
    same(found[0], mixed_outputs())


def test_a_closed_session_does_not_run(gpu, engine):
    session = TrtSession(engine, MIXED)
    session.close()
    session.close()
    with pytest.raises(UserError, match="is closed; open the engine again"):
        session.run(mixed_inputs())
    assert gpu.driver.live() == {}


class TestRefusals:
    def test_no_file(self, gpu, tmp_path):
        with pytest.raises(UserError, match=r"There is no engine at .*; run `sttm-export build`"):
            TrtSession(tmp_path / "gone.engine", MIXED)

    def test_no_gpu(self, gpu, engine):
        gpu.knob(cc="none")
        with pytest.raises(UserError, match=r"this machine has no NVIDIA GPU that can be used .*CUDA_ERROR_NO_DEVICE"):
            TrtSession(engine, MIXED)

    def test_another_version_and_gpu_before_tensorrt_is_asked(self, gpu, graph, tmp_path):
        path = tmp_path / "old.engine"
        write_engine(graph, path, tensorrt="tensorrt 10.13.2.6", compute_capability="sm110")
        with pytest.raises(UserError) as caught:
            TrtSession(path, MIXED)
        assert str(caught.value) == (
            "old.engine does not run here: it was built with tensorrt 10.13.2.6, here is tensorrt 10.3.0.30; it was "
            "built for a GPU of compute capability sm110, this one has sm87; build it on this machine with "
            "`sttm-export build BUNDLE --target NAME`, or in the bundle with `bash device/build.sh`."
        )
        assert "Runtime" not in gpu.log.names()

    def test_what_tensorrt_refuses(self, gpu, engine):
        gpu.knob(refuse="yes")
        with pytest.raises(
            UserError, match=r"tensorrt 10.3.0.30 does not load mixed.engine \(.*[Vv]ersion tag"
        ) as caught:
            TrtSession(engine, MIXED)
        assert "bash device/build.sh" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert gpu.driver.live() == {}

    def test_no_sidecar_and_damaged(self, gpu, graph, tmp_path):
        path = write_engine(graph, tmp_path / "bare.engine", sidecar=False)
        with TrtSession(path, MIXED) as session:
            same(session.run(mixed_inputs()), mixed_outputs())
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(UserError, match=r"does not load bare.engine \(.*Magic tag does not match"):
            TrtSession(path, MIXED)
        path.write_bytes(b"")
        with pytest.raises(UserError, match=r"cannot be read .*; copy or build the engine anew"):
            TrtSession(path, MIXED)

    def test_a_runtime_that_does_not_start(self, gpu, engine, monkeypatch):
        import tensorrt

        def broken(logger):
            logger.log(logger.ERROR, "CUDA initialization failure with error: 35.")
            raise TypeError("pybind11::init(): factory function returned nullptr")

        monkeypatch.setattr(tensorrt, "Runtime", broken)
        with pytest.raises(UserError, match=r"could not start: CUDA initialization failure with error: 35\.$"):
            TrtSession(engine, MIXED)

    def test_another_graphs_engine(self, gpu, engine):
        other = GraphSpec(
            "other",
            (TensorSpec("x", (2, 4), "float16", ""), TensorSpec("z", (), "int32", "")),
            (TensorSpec("y", (2, 3), "float32", ""), *MIXED.outputs[1:]),
        )
        with pytest.raises(UserError) as caught:
            TrtSession(engine, other)
        assert str(caught.value) == (
            "mixed.engine is no engine of the graph 'other' of this bundle: input 'z' is missing; it has a further "
            "input 'k'; it has a further input 'limit'; input 'x' is float16 [2, 3], expected float16 [2, 4]; output "
            "'y' is float16 [2, 3], expected float32 [2, 3]; build it from this bundle."
        )
        assert gpu.driver.live() == {}

    @pytest.mark.parametrize("nth", [1, 3, 6])
    def test_out_of_memory(self, gpu, engine, nth):
        gpu.knob(oom=nth)
        with pytest.raises(
            CudaError, match=r"Cannot allocate .* of mixed.engine .*out of memory.*smaller --batch"
        ) as caught:
            TrtSession(engine, MIXED)
        assert caught.value.code == 2
        assert gpu.driver.live() == {}

    def test_no_memory_for_a_context(self, gpu, engine, monkeypatch):
        import standin_runtime

        monkeypatch.setattr(standin_runtime.Engine, "create_execution_context", lambda self, *config: None)
        with pytest.raises(UserError, match=r"cannot prepare mixed.engine"):
            TrtSession(engine, MIXED)
        assert gpu.driver.live() == {}

    def test_a_run_that_fails(self, gpu, engine, monkeypatch):
        import standin_runtime

        with TrtSession(engine, MIXED) as session:
            monkeypatch.setattr(standin_runtime.Context, "_fault", lambda self, driver: "a kernel is missing")
            with pytest.raises(UserError, match=r"mixed.engine failed to run \(.*a kernel is missing\)"):
                session.run(mixed_inputs())

    def test_memory_that_is_not_taken(self, gpu, engine, monkeypatch):
        import standin_runtime

        monkeypatch.setattr(standin_runtime.Context, "set_tensor_address", lambda self, name, address: False)
        with pytest.raises(UserError, match="takes no memory for 'x'"):
            TrtSession(engine, MIXED)
        assert gpu.driver.live() == {}


def test_the_real_tensorrt_rtx_gives_our_sentence_without_a_gpu(tmp_path, graph, monkeypatch):
    """NVIDIA's own runtime, no stand-in: it cannot load an engine here, and what it says is in our sentence."""
    from sttm_export.engines.api import load_api
    from sttm_export.engines.driver import gpu_capability
    from sttm_export.engines.execution import LoadedEngine

    if gpu_capability() is not None:
        pytest.skip("this machine has a GPU, where the engine loads")
    api = load_api("tensorrt-rtx")
    engine = write_engine(graph, tmp_path / "real.engine", api=api, sidecar=False)
    with pytest.raises(
        UserError, match=r"tensorrt-rtx 1\.[\d.]+ does not load real.engine \(.*; build it on this machine"
    ):
        LoadedEngine(api, engine)


def test_compute_alone_leaves_the_copies_out(gpu, engine):
    with TrtSession(engine, MIXED) as session:
        session.run(mixed_inputs())
        before = gpu.log.names().count("cuMemcpyHtoDAsync_v2")
        taken = session.measure(mixed_inputs(), 4, copies=False)
        # One run to warm up copies its three inputs.
        assert len(taken) == 4
        assert gpu.log.names().count("cuMemcpyHtoDAsync_v2") == before + 3
    names = gpu.log.names()
    assert names.count("Context.execute_async_v3") == 1 + 1 + 4
    assert names.count("cuEventRecord") == 8


def test_a_captured_run_is_timed_with_its_graph_and_without_it(gpu, engine):
    gpu.knob(kernels="2+3")
    with TrtSession(engine, MIXED, cuda_graph=True) as session:
        session.measure(mixed_inputs(), 1)
        gpu.log.calls.clear()
        assert len(session.measure(None, 2)) == 2
        assert gpu.log.names().count("cuGraphLaunch") == 2
        assert gpu.log.names().count("Context.execute_async_v3") == 0
        session.measure(None, 1, captured=False)
        assert gpu.log.names().count("Context.execute_async_v3") == 1
        # Two kernels and a graph of three more, three inputs, three outputs.
        assert session.count_nodes() == {KERNEL: 5, COPY: 6}
        same(session.run(mixed_inputs()), mixed_outputs())
    assert gpu.driver.live() == {}


def test_an_engine_that_was_changed_is_refused_before_it_is_loaded(gpu, graph, tmp_path):
    path = write_engine(graph, tmp_path / "mixed.engine", sidecar=True)
    write_sidecar(path, graph, load_api("tensorrt"), sha256=sha256_of(path))
    with TrtSession(path, MIXED) as session:
        same(session.run(mixed_inputs()), mixed_outputs())
    with path.open("ab") as file:
        file.write(b"x")
    loaded = gpu.log.names().count("Runtime.deserialize_cuda_engine")
    with pytest.raises(UserError, match=r"mixed.engine was changed after it was built .*build it on this machine"):
        TrtSession(path, MIXED)
    assert gpu.log.names().count("Runtime.deserialize_cuda_engine") == loaded


def test_inputs_and_outputs_are_row_major_or_refused(gpu, tmp_path):
    """TensorRT may lay out a float16 image otherwise, and an array that is copied into that is scrambled."""
    graph = save(proto([node("Abs", ["x"], ["y"])], [("x", HALF, [1, 8, 4, 4])], [("y", HALF, [1, 8, 4, 4])]), tmp_path)
    spec = GraphSpec("image", *((TensorSpec(name, (1, 8, 4, 4), "float16", ""),) for name in "xy"))
    loose = write_engine(graph, tmp_path / "loose.engine", pinned=False)
    with pytest.raises(UserError, match=r"input 'x' is float16 \[1, 8, 4, 4\] in the layout HWC8, expected float16"):
        TrtSession(loose, spec)
    with TrtSession(write_engine(graph, tmp_path / "pinned.engine"), spec) as session:
        session.run({"x": np.ones((1, 8, 4, 4), np.float16)})


def test_an_engine_lists_its_layers_or_says_why_not(gpu, engine):
    with TrtSession(engine, MIXED) as session:
        assert isinstance(session.layers(), list)
        gpu.knob(no_inspector="yes")
        with pytest.raises(UserError, match=r"the inspector of tensorrt 10\.3\.0\.30 gave no layers"):
            session.layers()


def rows_of(count, first=1):
    return {"x": np.arange(first, first + 3 * count, dtype=np.float32).reshape(count, 3)}


def run_sums(session):
    """Calls of both numbers of rows, one after the other; what each gave, and the sums before it."""
    total = np.zeros((1, 3), np.float32)
    for count, first in ((4, 1), (1, 2), (1, 3), (4, 4), (1, 9)):
        inputs = rows_of(count, first)
        assert list(session.run(inputs)) == ["y"]
        np.testing.assert_array_equal(session.state()["total"], (total + inputs["x"].sum(0)).astype(np.float16))
        total = total + inputs["x"].sum(0)
    return total


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_state_stays_on_the_device_from_call_to_call(gpu, tmp_path, cuda_graph):
    path = write_sums(tmp_path)
    engine = write_engine(path, tmp_path / "sums.engine", row_counts=SUMS.row_counts)
    with TrtSession(engine, SUMS, cuda_graph=cuda_graph) as session:
        total = run_sums(session)
        before = session.state()
        outputs = session.run(rows_of(1))
        np.testing.assert_array_equal(outputs["y"], rows_of(1)["x"] + total)
        session.restore(before)
        np.testing.assert_array_equal(session.run(rows_of(1))["y"], outputs["y"])
        session.reset()
        np.testing.assert_array_equal(session.run(rows_of(4))["y"], rows_of(4)["x"])
        with pytest.raises(UserError, match="3 rows are given, it takes 4 or 1"):
            session.run(rows_of(3))
        with pytest.raises(UserError, match=r"'total' has shape \[2, 3\], expected \[1, 3\]"):
            session.restore({"total": np.zeros((2, 3), np.float16)})
        calls = [row for row in gpu.log.calls if row["call"] == "Context.set_optimization_profile_async"]
        assert [row["arguments"][0] for row in calls] == [0, 1, 0, 1, 0], "a profile is chosen when the rows change"
    assert gpu.driver.live() == {}


def test_state_in_onnxruntime_is_the_same(tmp_path):
    session = OrtSession(write_sums(tmp_path), SUMS)
    total = run_sums(session)
    np.testing.assert_array_equal(session.run(rows_of(4))["y"], rows_of(4)["x"] + total)
