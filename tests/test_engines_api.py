import io
import subprocess
import sys

import pytest
from helpers_graphs import FLOAT, INT32, node, proto, save
from helpers_standins import pretend_gpu
from helpers_trt import parsed, write_mixed

from sttm_export.engines import api as api_module
from sttm_export.engines.api import BuildOptions, EngineError, UnavailableError, load_api
from sttm_export.errors import UserError

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def api(request, monkeypatch):
    """The same tests run on both: full TensorRT as the stand-in has it, and the real TensorRT-RTX."""
    if request.param == "tensorrt":
        pretend_gpu(monkeypatch)
    return load_api(request.param)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return write_mixed(tmp_path_factory.mktemp("graph"))


def test_types_are_the_graphs_and_tf32_is_cleared(api, graph):
    """Precision lives in the graph; a flag would let TensorRT choose another."""
    builder, network, config = parsed(api, graph, [])
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32), "on by default"
    assert [name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)] == []
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


def test_inputs_and_outputs_are_row_major(api, graph):
    network = parsed(api, graph, [])[1]
    ends = [network.get_input(number) for number in range(3)] + [network.get_output(number) for number in range(3)]
    assert {tensor.allowed_formats for tensor in ends} == {1 << int(trt.TensorFormat.LINEAR)}


def test_options_reach_the_configuration(api, graph):
    config = parsed(api, graph, [], options=BuildOptions(512, 5))[2]
    assert api.read_options(config) == {
        "strongly_typed": True,
        "tf32": False,
        "optimization_level": 5,
        "workspace_mib": 512,
    }
    fresh = api.builder(api.logger([])).create_builder_config()
    assert api.read_options(parsed(api, graph, [])[2]) == api.read_options(fresh) | {"tf32": False}


def test_tensorrt_11_needs_no_flags(monkeypatch, graph):
    """It knows no other networks than strongly typed ones; whether it has TF32 at all is left to it."""
    pretend_gpu(monkeypatch, tensorrt="11.4.1")
    api = load_api("tensorrt")
    for name in ("NetworkDefinitionCreationFlag", "BuilderFlag"):
        monkeypatch.setattr(api.module, name, object(), raising=False)
    builder, network, config = parsed(api, graph, [], "sm89")
    assert api.read_options(config)["tf32"] is False
    assert api.serialize(builder, network, config, io.BytesIO())


def test_compute_capability_is_set_on_rtx(graph):
    api = load_api("tensorrt-rtx")
    config = parsed(api, graph, [], "sm89")[2]
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == trt.ComputeCapability.SM89
    with pytest.raises(EngineError, match="does not know the compute capability sm87"):
        parsed(api, graph, [], "sm87")


def test_every_capability_of_the_rtx_target_is_one_of_the_bindings():
    from sttm_export.contracts.target import find_target

    known = {name.lower() for name in vars(trt.ComputeCapability) if name.startswith("SM")}
    assert set(find_target("rtx").compute_capabilities) == known


def test_verbose_lines_are_dropped(api):
    messages = []
    logger = api.logger(messages)
    logger.log(logger.VERBOSE, "chatter")
    logger.log(logger.WARNING, "mind this")
    assert [(message.severity, message.text) for message in messages] == [("WARNING", "mind this")]


def test_parser_errors_name_node_and_operator(api, tmp_path):
    model = proto([node("MatMul", ["x", "x"], ["y"])], [("x", INT32, [4, 4])], [("y", INT32, [4, 4])])
    with pytest.raises(EngineError, match=r"refuses graph.onnx: node 'MatMul_y' \(MatMul\): .*INT32") as caught:
        parsed(api, save(model, tmp_path), [])
    assert "\n" not in str(caught.value)


class ParserError:
    """Of bindings before TensorRT 9."""

    def node(self):
        return 7

    def desc(self):
        return "Assertion failed:\n  no weights"


def test_all_parser_errors_come_in_one_message(api, tmp_path, monkeypatch):
    class Parser:
        num_errors = 2

        def __init__(self, network, logger):
            pass

        def parse_from_file(self, path):
            return False

        def get_error(self, number):
            return ParserError()

    monkeypatch.setattr(api.module, "OnnxParser", Parser)
    with pytest.raises(EngineError) as caught:
        api.parse(object(), None, tmp_path / "g.onnx")
    described = "node 7: Assertion failed: no weights"
    assert str(caught.value).endswith(f"{api.version} refuses g.onnx: {described}; {described}.")


def test_a_builder_that_cannot_start_is_explained(monkeypatch):
    gpu = pretend_gpu(monkeypatch)
    gpu.knob(cc="none")
    with pytest.raises(EngineError, match=r"TensorRT 10.3.0.30 could not start: pybind11"):
        load_api("tensorrt").builder(load_api("tensorrt").logger([]))


@pytest.mark.parametrize("version", ["10.3.0.30", "10.13.2.6"])
def test_bytes_are_written_as_they_come(monkeypatch, graph, version):
    """With the stream of later versions and without."""
    gpu = pretend_gpu(monkeypatch, tensorrt=version)
    api, file = load_api("tensorrt"), io.BytesIO()
    builder, network, config = parsed(api, graph, [])
    assert api.serialize(builder, network, config, file)
    assert file.getvalue() == bytes(memoryview(builder.build_serialized_network(network, config)))
    gpu.knob(no_build="yes")
    assert not api.serialize(builder, network, config, io.BytesIO())


@pytest.mark.parametrize(("flavour", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_what_is_not_installed_says_how_to_install_it(monkeypatch, flavour, extra):
    monkeypatch.setattr(api_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=rf"pip install 'sttm-export\[{extra}\]'\.$") as caught:
        load_api(flavour)
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


def test_what_is_installed_but_broken_says_so(monkeypatch):
    def broken(name):
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(api_module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(api_module.importlib, "import_module", broken)
    with pytest.raises(UnavailableError, match=r"tensorrt is installed but does not load \(libnvinfer"):
        load_api("tensorrt")


def test_the_package_of_nvidia_has_another_name(monkeypatch):
    names = {"tensorrt_rtx": trt}
    monkeypatch.setattr(api_module.importlib.util, "find_spec", names.get)
    monkeypatch.setattr(api_module.importlib, "import_module", names.__getitem__)
    assert load_api("tensorrt-rtx").version == trt.__version__


def test_this_room_imports_neither_torch_nor_onnx_nor_tensorrt():
    code = (
        "import sys, sttm_export.engines.build, sttm_export.engines.compatibility;"
        "heavy = ('torch', 'onnx', 'tensorrt', 'tensorrt_rtx_bindings', 'numpy');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def build_rtx(graph, **options):
    api, messages, file = load_api("tensorrt-rtx"), [], io.BytesIO()
    builder, network, config = parsed(api, graph, messages, "sm86", BuildOptions(**options))
    built = api.serialize(builder, network, config, file)
    return built, api.read_options(config), " ".join(message.text for message in messages)


def test_rtx_keeps_workspace_and_level(graph):
    built, options, _ = build_rtx(graph, workspace_mib=64, optimization_level=2)
    assert built
    assert options["workspace_mib"] == 64
    assert options["optimization_level"] == 2


def test_builder_errors_are_in_the_log(tmp_path):
    import numpy as np

    model = proto(
        [node("TopK", ["x", "k"], ["y", "i"])],
        [("x", FLOAT, [2, 4096])],
        [("y", FLOAT, [2, 3841])],
        {"k": np.array([3841])},
    )
    built, _, log = build_rtx(save(model, tmp_path))
    assert not built
    assert "K exceeds the maximum value allowed" in log


COLLECTING = """
import gc
from sttm_export.engines.api import load_api

class Messages(list):
    def append(self, message):
        if gc.isenabled():
            gc.collect()
        super().append(message)

api = load_api("tensorrt-rtx")
gc.disable()
ring = [api.builder(api.logger([]))]
ring.append(ring)
del ring
gc.enable()
api.builder(api.logger(Messages()))
print("ended", gc.isenabled())
"""


def test_no_collection_while_tensorrt_logs():
    """An earlier builder in a ring of references, collected while TensorRT holds its lock, would wait for ever."""
    ran = subprocess.run([sys.executable, "-c", COLLECTING], capture_output=True, text=True, timeout=120, check=True)
    assert ran.stdout.split() == ["ended", "True"]
