"""The CUDA driver through the C ABI, against a driver in host memory that is stricter than NVIDIA's."""

import ctypes
import types

import pytest
from helpers_standins import pretend_gpu

from sttm_export.engines import driver as driver_module
from sttm_export.engines.cuda import CHILD, COPY, KERNEL, Cuda
from sttm_export.engines.driver import (
    SIGNATURES,
    CudaError,
    Driver,
    Gpu,
    counted_calls,
    find_gpu,
    gpu_capability,
    load_driver,
)

pytest.importorskip("tensorrt_rtx_bindings", reason="the stand-in stands on TensorRT-RTX")


@pytest.fixture
def gpu(monkeypatch):
    return pretend_gpu(monkeypatch)


@pytest.fixture
def cuda(gpu):
    made = Cuda()
    yield made
    made.close()
    assert gpu.driver.live() == {}


def filled(address, size):
    return ctypes.string_at(address, size)


def test_the_gpu_is_described(gpu):
    assert find_gpu() == Gpu("Orin (stand-in)", "sm87", 8 << 30, integrated=True, cuda="12.6")
    gpu.knob(cc="12.1", memory=1 << 34, gpu_name="RTX")
    assert find_gpu() == Gpu("RTX", "sm121", 1 << 34, integrated=True, cuda="12.6")
    assert gpu_capability() == "sm121"


def test_no_gpu_and_no_driver(gpu, monkeypatch):
    gpu.knob(cc="none")
    assert find_gpu() is None
    assert gpu_capability() is None
    with pytest.raises(
        CudaError,
        match=r"device is detected, CUDA_ERROR_NO_DEVICE \(CUDA error 100\); check that nvidia-smi",
    ):
        load_driver()

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver_module.ctypes, "CDLL", missing)
    assert gpu_capability() is None
    with pytest.raises(CudaError, match=r"no NVIDIA driver .*docker run --gpus all"):
        Cuda()


def test_windows_has_another_name(gpu, monkeypatch):
    asked = []
    monkeypatch.setattr(driver_module.sys, "platform", "win32")
    monkeypatch.setattr(driver_module.ctypes, "CDLL", lambda name: asked.append(name) or gpu.driver)
    load_driver()
    assert asked == ["nvcuda.dll"]


def test_every_signature_is_one_of_the_pretended_driver(gpu):
    """Both were written from cuda.h; the number of arguments must agree at least."""
    import standin_cuda

    for name, arguments in SIGNATURES.items():
        prototype, _ = standin_cuda.FUNCTIONS[name]
        assert len(prototype._argtypes_) == len(arguments), name
        sizes = [list(map(ctypes.sizeof, types_)) for types_ in (prototype._argtypes_, arguments)]
        assert sizes[0] == sizes[1], name


def test_a_driver_that_is_too_old():
    with pytest.raises(CudaError, match="too old: it has no cuGraphLaunch; update the driver"):
        Driver(types.SimpleNamespace()).call("cuGraphLaunch", 0, 0, doing="launch")


def test_an_error_the_driver_has_no_words_for(gpu):
    gpu.driver.cuInit(0)
    import standin_cuda

    del standin_cuda.ERRORS[1]
    with pytest.raises(CudaError, match=r"Cannot free: no reason given \(CUDA error 1\); see `sttm-export doctor`"):
        Driver(gpu.driver).call("cuMemFree_v2", 7, doing="free")


def test_bytes_go_to_the_gpu_and_back(cuda):
    stream = cuda.stream()
    device, host = cuda.allocate(300, "a test"), cuda.allocate_host(300, "a test")
    ctypes.memset(host, 7, 300)
    stream.to_device(device, host, 300)
    stream.synchronize()
    ctypes.memset(host, 0, 300)
    stream.to_host(host, device, 300)
    assert filled(host, 300) == bytes(300), "nothing is done before something waits for it"
    stream.synchronize()
    assert filled(host, 300) == bytes([7]) * 300


def test_small_memory_is_given_in_whole_lines(cuda, gpu):
    first, second = cuda.allocate(4, "a"), cuda.allocate(4, "b")
    assert gpu.driver.room(first) >= 256
    assert first != second


def test_free_memory_falls(cuda):
    free, total = cuda.memory()
    cuda.allocate(1 << 20, "a test")
    assert cuda.memory() == (free - (1 << 20), total)
    assert total == 8 << 30


def test_too_much_memory(cuda):
    with pytest.raises(CudaError) as caught:
        cuda.allocate(9 << 30, "'features' of token_merger.engine")
    assert str(caught.value) == (
        "Cannot allocate 9.0 GiB of GPU memory for 'features' of token_merger.engine (8.0 GiB are free): out of "
        "memory, CUDA_ERROR_OUT_OF_MEMORY (CUDA error 2); close other programs that use "
        "the GPU, or export with fewer --frames or a smaller "
        "--batch."
    )
    assert caught.value.code == 2


def test_a_graph_does_again_what_was_captured(cuda):
    stream = cuda.stream()
    device, host = cuda.allocate(256, "a test"), cuda.allocate_host(256, "a test")
    graph = cuda.capture(stream, lambda: stream.to_device(device, host, 256))
    ctypes.memset(host, 3, 256)
    stream.launch(graph)
    stream.to_host(host, device, 256)
    stream.synchronize()
    assert filled(device, 256) == bytes([3]) * 256


def test_what_was_recorded_is_counted_by_its_kind(cuda, gpu):
    """Kernels of a graph inside of the graph are counted with the others; nothing is run, and nothing is left."""
    stream, ran = cuda.stream(), []
    device, host = cuda.allocate(256, "a test"), cuda.allocate_host(256, "a test")
    before = gpu.driver.live()

    def work():
        stream.to_device(device, host, 256)
        gpu.driver.put(stream.handle, lambda: ran.append("alone"))
        gpu.driver.put(stream.handle, [(KERNEL, lambda: ran.append("inside"))] * 3, CHILD)
        stream.to_host(host, device, 256)

    assert cuda.count_nodes(stream, work) == {KERNEL: 4, COPY: 2}
    assert cuda.count_nodes(stream, lambda: None) == {}
    assert (ran, gpu.driver.live()) == ([], before)
    with pytest.raises(CudaError, match="capturing"):
        cuda.count_nodes(stream, stream.synchronize)


def test_calls_are_counted_by_name_as_long_as_somebody_counts(cuda):
    with counted_calls() as outer:
        stream = cuda.stream()
        with counted_calls() as inner:
            stream.synchronize()
        stream.synchronize()
    stream.synchronize()
    assert inner == {"cuStreamSynchronize": 1}
    assert outer == {"cuStreamCreate": 1, "cuStreamSynchronize": 2}


@pytest.mark.parametrize("work", ["wait", "allocate", "raise"])
def test_a_spoilt_capture_is_ended(cuda, gpu, work):
    stream = cuda.stream()

    def spoil():
        if work == "raise":
            raise KeyError("mine")
        stream.synchronize() if work == "wait" else cuda.allocate(1, "a test")

    with pytest.raises(KeyError if work == "raise" else CudaError):
        cuda.capture(stream, spoil)
    assert "graphs" not in gpu.driver.live()
    stream.synchronize()


def test_a_spoilt_capture_that_nobody_noticed(cuda, gpu):
    stream = cuda.stream()
    with pytest.raises(
        CudaError, match="Cannot capture the engine as a CUDA graph: operation failed due to a previous"
    ):
        cuda.capture(stream, lambda: gpu.driver.spoil(stream.handle))


def test_events_tell_time_of_the_work_between_them(cuda):
    stream, first, last = cuda.stream(), cuda.event(), cuda.event()
    device, host = cuda.allocate(1 << 22, "a test"), cuda.allocate_host(1 << 22, "a test")
    stream.record(first)
    stream.to_device(device, host, 1 << 22)
    stream.record(last)
    stream.synchronize()
    assert 0 < stream.milliseconds(first, last) < 10_000


def test_closing_frees_in_reverse_order_and_once(gpu):
    cuda = Cuda()
    cuda.stream(), cuda.event(), cuda.allocate(1, "a"), cuda.allocate_host(1, "b")
    gpu.log.calls.clear()
    cuda.close()
    cuda.close()
    freed = ["cuMemFreeHost", "cuMemFree_v2", "cuEventDestroy_v2", "cuStreamDestroy_v2", "cuDevicePrimaryCtxRelease_v2"]
    assert gpu.log.names() == ["cuCtxSetCurrent", *freed]
    with pytest.raises(CudaError, match="closed; open the engine again"):
        cuda.enter()


def test_a_context_that_cannot_be_used_is_given_back(gpu, monkeypatch):
    def refuse(self):
        raise CudaError("no", 1)

    monkeypatch.setattr(Cuda, "enter", refuse)
    with pytest.raises(CudaError):
        Cuda()
    assert gpu.driver.live() == {}
