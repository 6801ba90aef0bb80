"""Build options: refused where they are not possible, on the configuration where they are; RTX's limits for real."""

from pathlib import Path

import pytest
from helpers_engines import fake_tensorrt
from helpers_graphs import tiny_module, tiny_spec

from sttm_export.contracts.target import find_target
from sttm_export.engines.api import Api, load_api, parse_graph
from sttm_export.engines.configure import read_options
from sttm_export.engines.faults import EngineError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.engines.options import BuildOptions, check_options
from sttm_export.errors import UserError
from sttm_export.graphs.export import export_graph

RTX, ORIN = find_target("rtx"), find_target("jetson-orin-jp62")
EVERYTHING = BuildOptions(512, True, True, Path("timing.cache"), True, 5)


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        (
            BuildOptions(workspace_mib=0),
            ORIN,
            "--workspace 0 is not possible; give the builder's scratch memory in MiB",
        ),
        (BuildOptions(workspace_mib=-1), RTX, "--workspace -1 is not possible"),
        (BuildOptions(optimization_level=6), ORIN, "Optimization level 6 is not possible; give one from 0"),
        (BuildOptions(optimization_level=-1), ORIN, "Optimization level -1"),
        (BuildOptions(frozen_timing_cache=True), ORIN, "--frozen-timing-cache needs a cache .* --timing-cache FILE"),
        (BuildOptions(timing_cache=Path("x")), RTX, "Target 'rtx' has no --timing-cache: it times no kernels"),
        (BuildOptions(frozen_timing_cache=True), RTX, "Target 'rtx' has no --frozen-timing-cache: it times no"),
        (BuildOptions(version_compatible=True), RTX, "has no --version-compatible: its packages lack the lean runtime"),
        (BuildOptions(strip_weights=True), RTX, "has no --strip-weights: it asks for a GPU .*; leave it out"),
    ],
)
def test_what_is_not_possible_is_refused_with_the_reason(options, target, message):
    with pytest.raises(UserError, match=message) as caught:
        check_options(options, target)
    assert "\n" not in str(caught.value)


def test_what_is_possible_is_not_refused():
    check_options(EVERYTHING, ORIN)
    check_options(BuildOptions(), RTX)
    check_options(BuildOptions(workspace_mib=1, optimization_level=0), RTX)


def test_options_reach_the_configuration():
    api = Api("tensorrt", fake_tensorrt())
    config = api.config(api.builder(api.logger([])), None, None, EVERYTHING)
    assert config.pools == {"WORKSPACE": 512 << 20} and config.builder_optimization_level == 5
    assert config.flags == {"VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL", "ERROR_ON_TIMING_CACHE_MISS"}
    assert read_options(api.module, config) == {
        "strongly_typed": True,
        "tf32": False,
        "optimization_level": 5,
        "workspace_mib": 512,
        "version_compatible": True,
        "strip_weights": True,
    }


def test_defaults_change_nothing_but_tf32():
    api = Api("tensorrt", fake_tensorrt())
    config = api.config(api.builder(api.logger([])), None, None)
    assert (config.flags, config.pools, config.builder_optimization_level) == (set(), {"WORKSPACE": 7 << 30}, 3)


def test_an_old_tensorrt_without_a_flag_says_so():
    module = fake_tensorrt("8.6.2")
    del module.BuilderFlag.STRIP_PLAN
    api = Api("tensorrt", module)
    with pytest.raises(EngineError, match=r"TensorRT 8.6.2 has no flag STRIP_PLAN; leave the option out"):
        api.config(api.builder(api.logger([])), None, None, BuildOptions(strip_weights=True))


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return export_graph(tiny_module("float16"), tiny_spec("float16"), tmp_path_factory.mktemp("graph"))


def build_with_rtx(graph, options, before=lambda module, config: None):
    """Build past `check_options`, to see what TensorRT-RTX itself says."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    api, messages = load_api("tensorrt-rtx"), []
    logger = api.logger(messages)
    builder = api.builder(logger)
    network = api.network(builder)
    parse_graph(api, network, logger, graph)
    config = api.config(builder, "sm86", None, options)
    before(api.module, config)
    plan = builder.build_serialized_network(network, config)
    return plan, config, " ".join(message.text for message in messages)


def test_rtx_keeps_workspace_and_level(graph):
    plan, config, _ = build_with_rtx(graph, BuildOptions(workspace_mib=64, optimization_level=2))
    options = read_options(load_api("tensorrt-rtx").module, config)
    assert plan is not None and options["workspace_mib"] == 64 and options["optimization_level"] == 2


def test_rtx_has_no_lean_runtime(graph):
    plan, _, log = build_with_rtx(graph, BuildOptions(version_compatible=True))
    assert plan is None and "libnvinfer_lean" in log


@pytest.mark.skipif(gpu_capability() is not None, reason="with a GPU this may work")
def test_rtx_asks_for_a_gpu_to_strip_weights(graph):
    plan, _, log = build_with_rtx(graph, BuildOptions(strip_weights=True))
    assert plan is None and "CUDA_SUCCESS" in log


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX")
def test_the_timing_cache_of_rtx_holds_nothing(graph):
    """A frozen, empty cache would stop every builder that times kernels; this one builds, and leaves it as it was."""
    found = []

    def attach(module, config):
        cache = config.create_timing_cache(b"")
        found.append(bytes(memoryview(cache.serialize())))
        assert config.set_timing_cache(cache, False)

    plan, config, _ = build_with_rtx(graph, BuildOptions(frozen_timing_cache=True), attach)
    assert plan is not None and bytes(memoryview(config.get_timing_cache().serialize())) == found[0]
