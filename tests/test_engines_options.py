"""Build options: refused where they are not possible, on the configuration where they are; RTX's limits for real."""

import pytest
from helpers_engines import fake_tensorrt
from helpers_graphs import tiny_module, tiny_spec

from sttm_export.engines.api import Api, load_api, parse_graph
from sttm_export.engines.configure import read_options
from sttm_export.engines.options import BuildOptions, check_options
from sttm_export.errors import UserError
from sttm_export.graphs.export import export_graph


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
        check_options(options)
    assert "\n" not in str(caught.value)


def test_what_is_possible_is_not_refused():
    check_options(BuildOptions())
    check_options(BuildOptions(workspace_mib=1, optimization_level=0))


def test_options_reach_the_configuration():
    api = Api("tensorrt", fake_tensorrt())
    config = api.config(api.builder(api.logger([])), None, None, BuildOptions(512, 5))
    assert config.pools == {"WORKSPACE": 512 << 20} and config.builder_optimization_level == 5
    assert read_options(api.module, config) == {
        "strongly_typed": True,
        "tf32": False,
        "optimization_level": 5,
        "workspace_mib": 512,
    }


def test_defaults_change_nothing_but_tf32():
    api = Api("tensorrt", fake_tensorrt())
    config = api.config(api.builder(api.logger([])), None, None)
    assert (config.flags, config.pools, config.builder_optimization_level) == (set(), {"WORKSPACE": 7 << 30}, 3)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    return export_graph(tiny_module("float16"), tiny_spec("float16"), tmp_path_factory.mktemp("graph"))


def build_with_rtx(graph, options):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    api, messages = load_api("tensorrt-rtx"), []
    logger = api.logger(messages)
    builder = api.builder(logger)
    network = api.network(builder)
    parse_graph(api, network, logger, graph)
    config = api.config(builder, "sm86", None, options)
    return builder.build_serialized_network(network, config), config


def test_rtx_keeps_workspace_and_level(graph):
    plan, config = build_with_rtx(graph, BuildOptions(workspace_mib=64, optimization_level=2))
    options = read_options(load_api("tensorrt-rtx").module, config)
    assert plan is not None and options["workspace_mib"] == 64 and options["optimization_level"] == 2
