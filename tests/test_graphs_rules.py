"""One small graph that breaks each rule, one that keeps them all, and NVIDIA's parser as the judge."""

import dataclasses

import numpy as np
import onnx
import pytest
from helpers_graphs import BOOL, FLOAT, HALF, INT32, INT64, node, proto, save, tiny_module, tiny_spec
from onnx import TensorProto

from sttm_export.contracts.target import find_target, targets
from sttm_export.graphs.export import export_graph
from sttm_export.graphs.rule_table import parser_knows, rules
from sttm_export.graphs.rules import check_rules

X = ("x", FLOAT, [8, 4])
Y = ("y", FLOAT, [8, 4])
ORIN = "jetson-orin-jp62"


def one(op, inputs, outputs, constants=None, opset=20, **attributes):
    """A graph of one node that reads and writes everything."""
    names = [row[0] for row in inputs] + list(constants or {})
    return proto([node(op, names, [row[0] for row in outputs], **attributes)], inputs, outputs, constants, opset)


def foreign_op():
    model = proto([onnx.helper.make_node("Odd", ["x"], ["y"], domain="other")], [X], [Y])
    model.opset_import.append(onnx.helper.make_opsetid("other", 1))
    return model


def if_graph():
    branch = onnx.helper.make_graph(
        [node("Constant", [], ["inner"], value_float=1.0)],
        "b",
        [],
        [onnx.helper.make_tensor_value_info("inner", FLOAT, [])],
    )
    return proto(
        [node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], [("c", BOOL, [])], [("y", FLOAT, [])]
    )


def two_cumsums():
    nodes = [node("CumSum", ["x", "k"], ["a"]), node("CumSum", ["a", "k"], ["y"])]
    return proto(nodes, [X], [Y], {"k": np.array(1, np.int32)})


def uint8_inside():
    nodes = [node("Cast", ["x"], ["a"], to=TensorProto.UINT8), node("Cast", ["a"], ["y"], to=FLOAT)]
    return proto(nodes, [X], [Y])


def axes_input():
    inputs = [X, ("axes", INT64, [1])]
    return proto([node("ReduceSum", ["x", "axes"], ["y"])], inputs, [("y", FLOAT, [8, 1])])


def layernorm_two_outputs():
    outputs = [Y, ("mean", FLOAT, [8, 1])]
    return one("LayerNormalization", [X], outputs, {"scale": np.ones(4, np.float32)})


def resize(**attributes):
    nodes = [node("Resize", ["x", "", "scales"], ["y"], **attributes)]
    scales = {"scales": np.array([1, 1, 0.5, 0.5], np.float32)}
    return proto(nodes, [("x", FLOAT, [1, 1, 8, 8])], [("y", FLOAT, [1, 1, 4, 4])], scales)


def topk(k, size=4096, **outputs):
    return proto(
        [node("TopK", ["x", "k"], ["y", "i"])], [("x", FLOAT, [2, size])], [("y", FLOAT, [2, k])], {"k": np.array([k])}
    )


def computed_k():
    return proto(
        [node("TopK", ["x", "k"], ["y", "i"])], [("x", FLOAT, [2, 8]), ("k", INT64, [1])], [("y", FLOAT, [2, "n"])]
    )


def scatter_nd(**attributes):
    inputs = [("x", FLOAT, [8]), ("i", INT64, [4, 1]), ("u", FLOAT, [4])]
    return one("ScatterND", inputs, [("y", FLOAT, [8])], **attributes)


def scatter_elements(places=8, indices=4, **attributes):
    inputs = [("x", FLOAT, [places]), ("i", INT32, [indices]), ("u", FLOAT, [indices])]
    return one("ScatterElements", inputs, [("y", FLOAT, [places])], **attributes)


def half(op, **attributes):
    return one(op, [("x", HALF, [8, 4])], [("y", HALF, [8, 4])], **attributes)


def of_type(dtype, op="Identity"):
    return one(op, [("x", dtype, [8])], [("y", dtype, [8])])


def quantized(zero=0, scale=0.1):
    """x to int8 and back."""
    nodes = [node("QuantizeLinear", ["x", "scale", "zero"], ["q"]), node("DequantizeLinear", ["q", "scale"], ["y"])]
    return proto(nodes, [X], [Y], {"scale": np.array(scale, np.float32), "zero": np.array(zero, np.int8)})


def dequantized(constant):
    """x plus a constant that is dequantized."""
    nodes = [node("DequantizeLinear", ["c", "scale"], ["d"]), node("Add", ["x", "d"], ["y"])]
    return proto(nodes, [X], [Y], {"c": constant, "scale": np.array(0.1, np.float32)})


# TensorRT-RTX reads such a K as a shape tensor; it is our graphs that must be static.
COMPUTED_K = computed_k()
# rule id, graph, target, every rule that fires
BREAKING = [
    ("opset-range", one("Relu", [X], [Y], opset=21), ORIN, None),
    ("opset-range", one("Relu", [X], [Y], opset=8), "rtx", None),
    ("dynamic-shape", one("Relu", [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])]), "rtx", None),
    ("unknown-op", of_type(INT32, "BitwiseNot"), "rtx", None),
    ("unknown-op", foreign_op(), "rtx", {"unknown-op"}),
    ("data-dependent", one("NonZero", [X], [("y", INT64, [2, "n"])]), "rtx", {"data-dependent", "dynamic-shape"}),
    ("control-flow", if_graph(), "rtx", None),
    ("topk-limit", topk(3841), "rtx", None),
    ("topk-limit", COMPUTED_K, "rtx", {"topk-limit", "dynamic-shape"}),
    ("sort", topk(64, size=64), "rtx", None),
    ("cumsum-loop", two_cumsums(), ORIN, None),
    ("cumsum-several", two_cumsums(), "jetson-thor-jp71", None),
    ("cumsum-several", two_cumsums(), "rtx", None),
    ("scatternd-reduction", scatter_nd(reduction="add"), "rtx", None),
    ("scatterelements-reduction", scatter_elements(reduction="max"), ORIN, None),
    ("scatter-size", scatter_elements(indices=9), "rtx", None),
    ("scatternd-opset", scatter_nd(), ORIN, None),
    ("int64-arithmetic", one("Add", [("x", INT64, [8]), ("z", INT64, [8])], [("y", INT64, [8])]), "rtx", None),
    ("int64-arithmetic", one("ArgMax", [X], [("y", INT64, [1, 4])]), "rtx", None),
    ("double", of_type(TensorProto.DOUBLE), "rtx", None),
    ("dtype", of_type(TensorProto.INT16), "rtx", None),
    ("dtype", of_type(TensorProto.STRING), "rtx", None),
    ("dtype", uint8_inside(), "rtx", None),
    ("target-precision", of_type(TensorProto.FLOAT8E4M3FN), ORIN, None),
    ("target-precision", of_type(TensorProto.FLOAT8E5M2), "jetson-orin-jp722", None),
    ("float32-math", half("Softmax"), "rtx", None),
    ("float32-math", half("Gelu"), ORIN, None),
    ("float32-math", one("ReduceSumSquare", [("x", HALF, [8, 4])], [("y", HALF, [1, 1])]), "rtx", {"float32-math"}),
    (
        "integer-matmul",
        one("MatMul", [("x", INT32, [8, 4]), ("z", INT32, [4, 8])], [("y", INT32, [8, 8])]),
        "rtx",
        None,
    ),
    ("bool-reduction", one("ReduceMax", [("x", BOOL, [8, 4])], [("y", BOOL, [1, 1])]), "rtx", None),
    ("constant-axes", axes_input(), "rtx", {"constant-axes"}),
    ("einsum-form", one("Einsum", [X], [("y", FLOAT, [8])], equation="...i->..."), ORIN, None),
    ("einsum-form", one("Einsum", [("x", FLOAT, [4, 4])], [("y", FLOAT, [4])], equation="ii->i"), ORIN, None),
    ("integer-pow", one("Pow", [("x", INT32, [8])], [("y", INT32, [8])], {"e": np.array(2, np.int32)}), ORIN, None),
    ("layernorm-outputs", layernorm_two_outputs(), "rtx", None),
    ("resize-mode", resize(mode="cubic"), "rtx", None),
    ("resize-mode", resize(mode="linear", antialias=1), "rtx", None),
    ("resize-mode", resize(mode="linear", coordinate_transformation_mode="half_pixel_symmetric"), "rtx", None),
    ("quantized-zero-point", quantized(zero=3), "rtx", None),
    ("quantized-zero-point", quantized(zero=-1), ORIN, None),
    ("quantized-scale", quantized(scale=0.0), "rtx", None),
    ("dequantized-int32", dequantized(np.arange(4, dtype=np.int32)), "rtx", None),
    ("dequantized-scalar", dequantized(np.array(3, np.int8)), "rtx", None),
]
# The same graphs where the rule does not apply: another version, or the nearest form that is allowed.
KEEPING = [
    ("opset-range", one("Relu", [X], [Y], opset=21), "rtx"),
    ("topk-limit", topk(3840), "rtx"),
    ("sort", topk(63, size=64), "rtx"),
    ("cumsum-loop", two_cumsums(), "jetson-thor-jp71"),
    ("cumsum-loop", two_cumsums(), "rtx"),
    ("cumsum-several", two_cumsums(), ORIN),
    ("cumsum-several", one("CumSum", [X], [Y], {"k": np.array(1, np.int32)}), "rtx"),
    ("scatternd-reduction", scatter_nd(), "rtx"),
    ("scatterelements-reduction", scatter_elements(), "rtx"),
    ("scatter-size", scatter_elements(indices=8), "rtx"),
    ("scatternd-opset", scatter_nd(), "jetson-thor-jp72"),
    ("int64-arithmetic", one("Add", [("x", INT32, [8]), ("z", INT32, [8])], [("y", INT32, [8])]), "rtx"),
    ("dtype", of_type(TensorProto.UINT8), "rtx"),
    ("float32-math", one("Softmax", [X], [Y]), "rtx"),
    ("float32-math", half("Relu"), "rtx"),
    ("einsum-form", one("Einsum", [X], [("y", FLOAT, [8])], equation="...i->..."), "jetson-thor-jp71"),
    ("einsum-form", one("Einsum", [X], [("y", FLOAT, [8])], equation="ij->i"), ORIN),
    ("integer-pow", one("Pow", [("x", INT32, [8])], [("y", INT32, [8])], {"e": np.array(2, np.int32)}), "rtx"),
    ("resize-mode", resize(mode="linear"), "rtx"),
    ("quantized-zero-point", quantized(), "rtx"),
    ("quantized-scale", quantized(scale=1e-38), "rtx"),
    ("dequantized-int32", dequantized(np.arange(4, dtype=np.int8)), "rtx"),
    ("dequantized-scalar", dequantized(np.array([3], np.int8)), "rtx"),
]


@pytest.mark.parametrize(
    ("rule", "model", "target", "all_rules"), BREAKING, ids=[f"{row[0]}-{n}" for n, row in enumerate(BREAKING)]
)
def test_a_graph_that_breaks_a_rule(rule, model, target, all_rules, tmp_path):
    findings = check_rules(save(model, tmp_path), find_target(target))
    assert {finding.rule.id for finding in findings} == (all_rules or {rule}), [str(finding) for finding in findings]
    assert all(finding.target == target and finding.where for finding in findings)


@pytest.mark.parametrize(("rule", "model", "target"), KEEPING, ids=[f"{row[0]}-{n}" for n, row in enumerate(KEEPING)])
def test_a_graph_that_only_just_keeps_a_rule(rule, model, target, tmp_path):
    assert rule not in {finding.rule.id for finding in check_rules(save(model, tmp_path), find_target(target))}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_exported_graph_keeps_every_rule(dtype, tmp_path):
    path = export_graph(tiny_module(dtype), tiny_spec(dtype), tmp_path)
    assert {name: check_rules(path, target) for name, target in targets().items()} == {name: [] for name in targets()}
    (tmp_path / "tiny.onnx.data").unlink()
    assert {finding.rule.id for finding in check_rules(path, find_target("rtx"))} == {"external-data"}


def test_every_rule_is_tested():
    tested = {row[0] for row in BREAKING} | {"external-data"}
    assert tested == set(rules())


@pytest.mark.parametrize("rule", rules().values(), ids=list(rules()))
def test_every_rule_says_why_what_to_do_and_where_it_is_from(rule):
    assert rule.severity in ("error", "warning")
    assert min(map(len, (rule.what, rule.why, rule.instead, rule.source))) > 10
    assert rule.tensorrt_since < rule.tensorrt_before


def test_a_rule_without_a_function_forbids_its_ops():
    from sttm_export.graphs.detectors import _DETECTORS

    assert set(_DETECTORS) <= set(rules())
    assert all(rule.ops for name, rule in rules().items() if name not in _DETECTORS)


def test_a_finding_reads_as_one_line(tmp_path):
    (finding,) = check_rules(save(topk(3841), tmp_path), find_target("rtx"))
    text = str(finding)
    assert "\n" not in text
    assert text.startswith("error topk-limit: TopK 'TopK_y' (K = 3841): TopK with K over 3840")
    assert text.endswith("Instead: count against a grid of candidates instead of sorting.")


def test_operators_come_with_the_version_that_brought_them():
    thor, later = find_target("jetson-thor-jp71"), find_target("jetson-thor-jp72")
    assert not parser_knows("Attention", thor)
    assert parser_knows("Attention", later)
    assert parser_knows("Attention", find_target("rtx"))
    assert parser_knows("MatMul", find_target(ORIN))
    assert not parser_knows("Unique", later)


def rtx():
    return pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


def test_the_table_of_operators_agrees_with_nvidias_parser():
    trt = rtx()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    target = find_target("rtx")
    known = {
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if schema.domain == "" and parser_knows(schema.name, target)
    }
    assert len(known) > 130
    assert {op for op in known if not parser.supports_operator(op)} == set()


# Rules whose breach TensorRT-RTX itself refuses; the others cost speed, are wrong silently, or hold for other versions.
REFUSED = {
    "data-dependent",
    "topk-limit",
    "scatternd-reduction",
    "scatterelements-reduction",
    "scatter-size",
    "dtype",
    "integer-matmul",
    "bool-reduction",
    "quantized-zero-point",
    "quantized-scale",
    "dequantized-int32",
    "dequantized-scalar",
}


@pytest.mark.parametrize(
    "number", [n for n, row in enumerate(BREAKING) if row[0] in REFUSED and row[1] is not COMPUTED_K]
)
def test_nvidias_parser_or_builder_refuses_it_too(number, tmp_path):
    rtx()
    from sttm_export.engines.api import EngineError
    from sttm_export.engines.build import EngineRequest, build_engine

    _, model, _, _ = BREAKING[number]
    with pytest.raises(EngineError):
        build_engine(EngineRequest(save(model, tmp_path), find_target("rtx"), "sm86"), tmp_path / "x.engine")


@pytest.mark.parametrize("number", [n for n, row in enumerate(KEEPING) if row[2] == "rtx" and row[0] != "dtype"])
def test_nvidias_parser_and_builder_take_the_nearest_allowed_form(number, tmp_path):
    rtx()
    from sttm_export.engines.build import EngineRequest, build_engine

    _, model, target = KEEPING[number]
    request = EngineRequest(save(model, tmp_path), find_target(target), "sm86")
    assert build_engine(request, tmp_path / "x.engine").size > 0


def test_versions_of_other_flavours_do_not_reach_rtx():
    target = dataclasses.replace(find_target("rtx"), tensorrt=(10, 3))
    assert not rules()["cumsum-loop"].applies_to(target)
    assert rules()["cumsum-several"].applies_to(target)
