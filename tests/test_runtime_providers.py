"""Execution providers. None but the CPU's is here, so ONNX Runtime is replaced where it would use one."""

import os
import types

import helpers_runtime as helpers
import numpy as np
import onnxruntime
import pytest

from sttm_export.errors import UserError
from sttm_export.runtime import providers as module
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.providers import CPU, CUDA, TENSORRT, TF32_VARIABLE, check_taken, find_provider, prepare

ALL = [TENSORRT, CUDA, CPU]
X, K = np.ones((2, 3), np.float32), np.array(2, np.int32)


@pytest.fixture
def adder(tmp_path):
    return helpers.write_adder(tmp_path / "adder.onnx")


@pytest.fixture
def ort(monkeypatch):
    """An ONNX Runtime for GPUs that runs on the CPU and remembers what it was asked; `taken` is what it claims."""
    state = types.SimpleNamespace(asked=[], taken=None, preloaded=0, fails=None)
    real = onnxruntime.InferenceSession
    monkeypatch.delenv(TF32_VARIABLE, raising=False)

    class Session:
        def __init__(self, path, options, providers, enable_fallback):
            state.asked.append((providers, enable_fallback, os.environ.get(TF32_VARIABLE)))
            if state.fails:
                raise RuntimeError(state.fails)
            self._real = real(path, options, providers=[CPU])
            self._taken = [state.taken or providers[0][0], CPU]

        def get_providers(self):
            return self._taken

        def __getattr__(self, name):
            return getattr(self._real, name)

    def preload():
        state.preloaded += 1

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    yield state
    os.environ.pop(TF32_VARIABLE, None)


@pytest.mark.parametrize(
    ("name", "chain"),
    [
        ("cpu", [CPU]),
        ("CPUExecutionProvider", [CPU]),
        ("cuda", [CUDA, CPU]),
        ("CUDA", [CUDA, CPU]),
        ("CUDAExecutionProvider", [CUDA, CPU]),
        ("tensorrt", [TENSORRT, CUDA, CPU]),
        ("TensorrtExecutionProvider", [TENSORRT, CUDA, CPU]),
    ],
)
def test_names_and_what_stands_behind_them(name, chain):
    provider = find_provider(name, ALL)
    assert [link for link, _ in provider.chain] == chain
    assert provider.name == chain[0]


def test_tensorrt_without_cuda_and_other_providers():
    assert [link for link, _ in find_provider("tensorrt", [TENSORRT, CPU]).chain] == [TENSORRT, CPU]
    assert find_provider("XnnpackExecutionProvider", ["XnnpackExecutionProvider", CPU]).chain == (
        ("XnnpackExecutionProvider", {}),
        (CPU, {}),
    )


def test_options_keep_float32_products_in_float32():
    options = dict(find_provider("tensorrt", ALL).chain)
    assert options == {CUDA: {"use_tf32": "0"}, TENSORRT: options[TENSORRT], CPU: {}}
    assert options[TENSORRT] == {"trt_fp16_enable": "0", "trt_engine_cache_enable": "0"}


@pytest.mark.parametrize("name", ["cuda", "tensorrt", "CUDAExecutionProvider"])
def test_a_build_without_it_says_what_to_install(adder, name):
    with pytest.raises(UserError) as caught:
        OrtSession(adder, helpers.ADDER, provider=name)
    text = str(caught.value)
    assert text.startswith("This ONNX Runtime is built without ")
    assert CPU in text
    assert "pip install 'sttm-export[gpu]'" in text
    assert "`sttm-export doctor`" in text
    assert "\n" not in text


def test_an_unknown_one():
    with pytest.raises(UserError, match=r"no provider 'gpu' here\. Did you mean 'cpu'\? Valid: .*cuda, tensorrt"):
        find_provider("gpu", [CPU])


def test_a_session_gets_the_chain_and_no_fallback(adder, ort):
    session = OrtSession(adder, helpers.ADDER, provider="cuda")
    assert session.backend.endswith(CUDA)
    assert np.array_equal(session.run({"x": X, "k": K})["y"], X + 2)
    assert ort.asked == [([(CUDA, {"use_tf32": "0"}), (CPU, {})], 0, "0")]
    assert ort.preloaded == 1


def test_the_cpu_needs_no_preparation(adder, ort):
    OrtSession(adder, helpers.ADDER)
    assert ort.asked == [([(CPU, {})], 0, None)]
    assert ort.preloaded == 0


def test_tf32_that_is_forced_on(adder, ort, monkeypatch):
    monkeypatch.setenv(TF32_VARIABLE, "1")
    with pytest.raises(UserError, match=r"NVIDIA_TF32_OVERRIDE=1 rounds .* unset it or set it to 0"):
        OrtSession(adder, helpers.ADDER, provider="tensorrt")
    assert ort.asked == []
    monkeypatch.setenv(TF32_VARIABLE, "0")
    OrtSession(adder, helpers.ADDER, provider="tensorrt")


def test_old_releases_have_no_preload(monkeypatch):
    monkeypatch.setenv(TF32_VARIABLE, "0")
    prepare(find_provider("cuda", ALL), types.SimpleNamespace())


@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_silent_fallback_is_an_error_that_names_the_library(adder, ort, name, monkeypatch):
    def load(path, mode):
        assert path.endswith(f"onnxruntime_providers_{name}.so")
        raise OSError("libcublasLt.so.12: cannot open shared object file\nmore")

    ort.taken = CPU
    monkeypatch.setattr(module.ctypes, "CDLL", load)
    with pytest.raises(UserError) as caught:
        OrtSession(adder, helpers.ADDER, provider=name)
    text = str(caught.value)
    assert "would have run on CPUExecutionProvider (libcublasLt.so.12: cannot open shared object file); run pip" in text


def test_tensorrt_that_falls_back_to_cuda_is_an_error_too(adder, ort, monkeypatch):
    ort.taken = CUDA
    monkeypatch.setattr(module.ctypes, "CDLL", lambda path, mode: None)
    with pytest.raises(UserError, match=r"run on CUDAExecutionProvider \(its library loads, so the NVIDIA driver"):
        OrtSession(adder, helpers.ADDER, provider="tensorrt")


def test_windows_names_its_libraries_otherwise(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(module.sys, "platform", "win32")
    monkeypatch.setattr(module.ctypes, "CDLL", lambda path, mode: asked.append(path))
    session = types.SimpleNamespace(get_providers=lambda: [CPU])
    with pytest.raises(UserError):
        check_taken(find_provider("cuda", ALL), session, types.SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    assert asked == [str(tmp_path / "capi" / "onnxruntime_providers_cuda.dll")]


def test_the_real_library_is_looked_for_where_onnxruntime_has_it():
    """The CPU build has none, and that is what the reason says."""
    session = types.SimpleNamespace(get_providers=lambda: [CPU])
    with pytest.raises(UserError, match=r"libonnxruntime_providers_cuda.so: cannot open shared object file"):
        check_taken(find_provider("cuda", ALL), session, onnxruntime)


def test_a_session_that_cannot_be_made(adder, ort):
    ort.fails = "CUDA failure 35: driver version is insufficient\nstack"
    with pytest.raises(UserError, match=r"with CUDAExecutionProvider \(CUDA failure 35: driver version") as caught:
        OrtSession(adder, helpers.ADDER, provider="cuda")
    assert str(caught.value).endswith(
        "see whether --provider cpu can, and `sttm-export doctor` for what this machine has."
    )
    with pytest.raises(UserError, match="damaged or incomplete"):
        OrtSession(adder, helpers.ADDER)
