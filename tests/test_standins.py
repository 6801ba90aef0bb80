"""The stand-in itself: what it pretends, what it forwards, and that it is gone when a test ends."""

import ctypes
import json
import subprocess
import sys

import pytest
from helpers_standins import MODULES, pretend_gpu, standin_environment
from helpers_trt import write_engine, write_mixed

real = pytest.importorskip("tensorrt_rtx_bindings", reason="the stand-in stands on TensorRT-RTX")


@pytest.fixture
def gpu(monkeypatch):
    return pretend_gpu(monkeypatch)


def test_nothing_is_left_when_a_test_ends():
    before = ctypes.CDLL, set(sys.modules), list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpu(patch)
        assert set(MODULES) <= set(sys.modules)
    assert (ctypes.CDLL, list(sys.path)) == (before[0], before[2])
    assert not set(MODULES) & (set(sys.modules) - before[1])


def test_a_process_sees_a_gpu_and_tensorrt(tmp_path):
    code = (
        "import platform, ctypes, tensorrt; from sttm_export.engines.driver import find_gpu;"
        "print(platform.machine(), tensorrt.__version__, find_gpu().compute_capability, ctypes.CDLL(None) is not None)"
    )
    knobs = {"machine": "riscv64", "tensorrt": "10.16.1", "cc": "11.0", "log": tmp_path / "log"}
    environment = standin_environment(**knobs)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["riscv64", "10.16.1", "sm110", "True"], done.stderr
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert rows[0] == {"call": "cuInit", "arguments": [0], "code": 0}


@pytest.mark.parametrize(("version", "streams"), [("10.3.0.30", False), ("10.13.2.6", True), ("11.4.1", True)])
def test_versions_have_what_they_have(monkeypatch, version, streams):
    pretend_gpu(monkeypatch, tensorrt=version)
    import tensorrt

    assert tensorrt.__version__ == version
    assert tensorrt.DataType is real.DataType
    builder = tensorrt.Builder(tensorrt.Logger())
    assert hasattr(builder, "build_serialized_network_to_stream") == hasattr(tensorrt, "IStreamWriter") == streams
    config = builder.create_builder_config()
    for name in ("ComputeCapability", "CudaGraphStrategy", "nothing_like_it"):
        assert not hasattr(tensorrt, name)
    assert not hasattr(config, "set_compute_capability")
    assert hasattr(config, "builder_optimization_level")
    with pytest.raises(AttributeError):
        config.num_compute_capabilities = 1


def test_no_builder_without_a_gpu(gpu):
    import tensorrt

    gpu.knob(cc="none")
    with pytest.raises(TypeError, match="nullptr"):
        tensorrt.Builder(tensorrt.Logger())


def test_the_real_parser_refuses_what_it_refuses(gpu, tmp_path):
    from helpers_graphs import FLOAT, INT64, node, proto, save

    from sttm_export.engines.api import EngineError

    graph = proto([node("NonZero", ["x"], ["y"])], [("x", FLOAT, [4])], [("y", INT64, [1, None])])
    with pytest.raises(EngineError, match="NonZero"):
        write_engine(save(graph, tmp_path), tmp_path / "x.engine")


def test_flags_are_kept_or_passed_on(gpu):
    import tensorrt

    config = tensorrt.Builder(tensorrt.Logger()).create_builder_config()
    flag = tensorrt.BuilderFlag
    assert config.get_flag(flag.TF32)
    assert config.real.get_flag(flag.TF32)
    config.clear_flag(flag.TF32)
    assert not config.get_flag(flag.TF32)
    assert not config.real.get_flag(flag.TF32)


def test_engines_are_refused_by_gpu(gpu, tmp_path):
    import tensorrt

    messages = []
    logger = type("L", (tensorrt.ILogger,), {"log": lambda self, level, text: messages.append(text)})()
    plain = write_engine(write_mixed(tmp_path), tmp_path / "a.engine").read_bytes()
    runtime = tensorrt.Runtime(logger)
    assert runtime.deserialize_cuda_engine(plain) is not None
    gpu.knob(cc="8.6")
    assert runtime.deserialize_cuda_engine(plain) is None
    assert "expecting compute 8.6 got compute 8.7" in messages[-1]


def test_what_the_pretended_driver_refuses(gpu):
    driver = gpu.driver
    out = ctypes.c_uint64()
    assert driver.cuMemAlloc_v2(ctypes.byref(out), 8) == 201, "no context is current"
    driver.cuInit(0)
    context = ctypes.c_void_p()
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
    driver.cuCtxSetCurrent(context)
    assert driver.cuMemAlloc_v2(ctypes.byref(out), 0) == 1
    assert driver.cuMemAlloc_v2(ctypes.byref(out), 8) == 0
    assert driver.cuMemcpyHtoDAsync_v2(out, out.value, 9, None) == 1, "past the end"
    assert driver.cuMemFree_v2(out) == 0
    assert driver.cuMemFree_v2(out) == 1
    assert driver.cuCtxSetCurrent(ctypes.c_void_p(5)) == 201
    with pytest.raises(AttributeError):
        _ = driver.cuLaunchKernel
