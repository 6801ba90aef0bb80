import io
import subprocess
import sys

import pytest
from helpers_engines import fake_tensorrt

from sttm_export.engines import api as api_module
from sttm_export.engines.api import Api, load_api, parse_graph
from sttm_export.engines.faults import EngineError, UnavailableError
from sttm_export.errors import UserError


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def api(request):
    """The same tests run on both: a fake of full TensorRT, and the real TensorRT-RTX."""
    if request.param == "tensorrt":
        return Api("tensorrt", fake_tensorrt())
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    return load_api("tensorrt-rtx")


def test_tf32_is_cleared(api):
    builder = api.builder(api.logger([]))
    assert builder.create_builder_config().get_flag(api.module.BuilderFlag.TF32), "on by default"
    assert not api.config(builder, None, None).get_flag(api.module.BuilderFlag.TF32)


def test_no_precision_flag_is_set(api):
    """Precision lives in the graph; a flag would let TensorRT choose another."""
    config = api.config(api.builder(api.logger([])), None, None)
    assert not config.flags


def test_tensorrt_without_the_flags_of_version_10():
    module = fake_tensorrt("11.4.1", strong_flag=False)
    del module.BuilderFlag.TF32
    api = Api("tensorrt", module)
    builder = api.builder(api.logger([]))
    api.network(builder)
    api.config(builder, "sm89", None)
    assert module.made.network_flags == [0] and module.made.configs[0].capabilities is None


def test_networks_of_version_10_are_strongly_typed():
    module = fake_tensorrt()
    Api("tensorrt", module).network(module.Builder(None))
    assert module.made.network_flags == [1 << 1]


def test_networks_of_rtx_are_strongly_typed():
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    api = load_api("tensorrt-rtx")
    network = api.network(api.builder(api.logger([])))
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_compute_capability_is_set_on_rtx():
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    api = load_api("tensorrt-rtx")
    config = api.config(api.builder(api.logger([])), "sm89", None)
    assert config.num_compute_capabilities == 1 and config.get_compute_capability(0) == trt.ComputeCapability.SM89
    with pytest.raises(EngineError, match="does not know the compute capability sm87"):
        api.config(api.builder(api.logger([])), "sm87", None)


def test_every_capability_of_the_rtx_target_is_one_of_the_bindings():
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    from sttm_export.contracts.target import find_target

    known = {name.lower() for name in vars(trt.ComputeCapability) if name.startswith("SM")}
    assert set(find_target("rtx").compute_capabilities) == known


def test_verbose_lines_are_dropped():
    messages = []
    logger = Api("tensorrt", fake_tensorrt()).logger(messages)
    logger.log(logger.VERBOSE, "chatter")
    logger.log(logger.WARNING, "mind this")
    assert [(message.severity, message.text) for message in messages] == [("WARNING", "mind this")]


def test_all_parser_errors_come_in_one_message(tmp_path):
    errors = [("MatMul_3", "MatMul", "Assertion failed:\n  INT32"), ("", "", "no weights")]
    api = Api("tensorrt", fake_tensorrt(parser_errors=errors))
    with pytest.raises(EngineError) as caught:
        parse_graph(api, object(), api.logger([]), tmp_path / "g.onnx")
    assert str(caught.value) == (
        "The parser of tensorrt 10.3.0.30 refuses g.onnx: "
        "node 'MatMul_3' (MatMul): Assertion failed: INT32; node 7: no weights."
    )


def test_a_builder_that_cannot_start_is_explained():
    module = fake_tensorrt()

    def no_gpu(logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module.Builder = no_gpu
    with pytest.raises(EngineError, match=r"TensorRT 10.3.0.30 could not start: pybind11"):
        Api("tensorrt", module).builder(None)


def test_bytes_are_written_as_they_come():
    api, file = Api("tensorrt", fake_tensorrt(plan=b"plan")), io.BytesIO()
    builder = api.builder(api.logger([]))
    assert api.serialize(builder, None, None, file) and file.getvalue() == b"plan"
    api = Api("tensorrt", fake_tensorrt(plan=None))
    assert not api.serialize(api.builder(api.logger([])), None, None, io.BytesIO())


@pytest.mark.parametrize(("flavour", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_what_is_not_installed_says_how_to_install_it(monkeypatch, flavour, extra):
    monkeypatch.setattr(api_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=rf"pip install 'sttm-export\[{extra}\]'\.$") as caught:
        load_api(flavour)
    assert isinstance(caught.value, UserError) and "\n" not in str(caught.value)


def test_what_is_installed_but_broken_says_so(monkeypatch):
    def broken(name):
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(api_module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(api_module.importlib, "import_module", broken)
    with pytest.raises(UnavailableError, match=r"tensorrt is installed but does not load \(libnvinfer"):
        load_api("tensorrt")


def test_the_package_of_nvidia_has_another_name(monkeypatch):
    names = {"tensorrt_rtx": fake_tensorrt("1.7.1")}
    monkeypatch.setattr(api_module.importlib.util, "find_spec", names.get)
    monkeypatch.setattr(api_module.importlib, "import_module", names.__getitem__)
    assert load_api("tensorrt-rtx").version == "1.7.1"


def test_this_room_imports_neither_torch_nor_onnx_nor_tensorrt():
    code = (
        "import sys, sttm_export.engines.targets, sttm_export.engines.gpu;"
        "heavy = ('torch', 'onnx', 'tensorrt', 'tensorrt_rtx_bindings', 'numpy');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
