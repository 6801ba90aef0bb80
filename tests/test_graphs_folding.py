"""Computing constants: the same bits as ONNX Runtime gives, and nothing that a machine could give otherwise."""

import numpy as np
import onnx_ir as ir
import pytest
from helpers_graphs import BOOL, FLOAT, HALF, INT32, INT64, node, proto, run, same_bits, save

from sttm_export.graphs import folding
from sttm_export.graphs.folding import fold_constants

ODD = np.array([0.0, -0.0, 1e-45, -1e-8, 1.5, 3e38, np.inf, -np.inf, np.nan], np.float32)
CONSTANTS = {
    "odd": ODD,
    "a": np.arange(12, dtype=np.float32).reshape(3, 4) - 5.5,
    "whole": np.array([2, 0, -1], np.int64),
    "last": np.array([-1], np.int64),
    "b": ODD < 1,
    "row": np.zeros((1, 4), np.int64),
    "shape": np.array([3, 4], np.int64),
    "from": np.array([2, 0], np.int64),
    "to": np.array([3, -1], np.int64),
    "zero": np.array([0], np.int64),
    "0": np.array(0, np.int64),
    "7": np.array(7, np.int64),
    "3": np.array(3, np.int64),
}
PAIR = ["odd", "odd"]
FOLDED = {
    "Cast to half": (node("Cast", ["odd"], ["k"], to=HALF), HALF),
    "Cast to bool": (node("Cast", ["odd"], ["k"], to=BOOL), BOOL),
    "Cast to whole": (node("Cast", ["a"], ["k"], to=INT32), INT32),
    "CastLike": (node("CastLike", ["a", "whole"], ["k"]), INT64),
    "Concat": (node("Concat", ["a", "a"], ["k"], axis=-1), FLOAT),
    "Expand": (node("Expand", ["row", "shape"], ["k"]), INT64),
    "Gather": (node("Gather", ["a", "whole"], ["k"], axis=1), FLOAT),
    "Identity": (node("Identity", ["odd"], ["k"]), FLOAT),
    "Range": (node("Range", ["0", "7", "3"], ["k"]), INT64),
    "Reshape": (node("Reshape", ["a", "last"], ["k"]), FLOAT),
    "Shape": (node("Shape", ["a"], ["k"], start=1), INT64),
    "Slice": (node("Slice", ["a", "from", "to"], ["k"]), FLOAT),
    "Squeeze": (node("Squeeze", ["row", "zero"], ["k"]), INT64),
    "Transpose": (node("Transpose", ["a"], ["k"], perm=[1, 0]), FLOAT),
    "Transpose without axes": (node("Transpose", ["a"], ["k"]), FLOAT),
    "Unsqueeze": (node("Unsqueeze", ["a", "last"], ["k"]), FLOAT),
    "Where": (node("Where", ["b", *PAIR], ["k"]), FLOAT),
    "Not": (node("Not", ["b"], ["k"]), BOOL),
    **{op: (node(op, ["odd"], ["k"]), FLOAT) for op in ("Floor", "Ceil", "Neg")},
    **{op: (node(op, PAIR, ["k"]), FLOAT) for op in ("Add", "Sub", "Mul", "Div")},
    **{op: (node(op, PAIR, ["k"]), BOOL) for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")},
    **{op: (node(op, ["b", "b"], ["k"]), BOOL) for op in ("And", "Or")},
}


def graph(nodes, dtype=FLOAT, constants=None):
    """A graph that returns what the nodes make of constants."""
    end = node("Identity", ["k"], ["y"])
    return proto([*nodes, end], [("x", FLOAT, [1])], [("y", dtype, None)], constants or CONSTANTS)


@pytest.mark.parametrize("what", FOLDED)
def test_constants_are_computed_as_onnx_runtime_computes_them(what, tmp_path):
    made, dtype = FOLDED[what]
    given = graph([made], dtype)
    model = ir.from_proto(given)
    assert fold_constants(model) == 1
    assert [item.op_type for item in model.graph] == ["Identity"]
    x = {"x": np.zeros(1, np.float32)}
    before, after = run(save(given, tmp_path, "a.onnx"), x), run(save(ir.to_proto(model), tmp_path, "b.onnx"), x)
    if made.op_type == "Where":
        # ONNX Runtime adds what it does not choose as zeros, which takes the sign of a negative zero.
        before, after = ([value + np.float32(0) for value in side] for side in (before, after))
    same_bits(before, after)


def test_every_operator_is_tried_here():
    assert {made.op_type for made, _ in FOLDED.values()} | {"Constant"} == {*folding.COMPUTED, *folding.FROM_NODE}


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(node("Exp", ["odd"], ["k"]), id="every library has its own Exp"),
        pytest.param(node("ReduceSum", ["odd"], ["k"], keepdims=0), id="every library adds in its own order"),
        pytest.param(node("Cast", ["odd"], ["k"], to=INT32), id="a float outside the whole numbers"),
        pytest.param(node("Add", ["x", "odd"], ["k"]), id="an input that is no constant"),
        pytest.param(node("Div", ["whole", "whole"], ["k"]), id="whole numbers are cut towards zero"),
        pytest.param(node("Slice", ["a", "to", "from", "zero", "last"], ["k"]), id="backwards"),
        pytest.param(node("Range", ["tenth", "one", "tenth"], ["k"]), id="steps that float32 rounds"),
        pytest.param(node("CastLike", ["odd", "unknown"], ["k"]), id="a dtype nobody knows"),
    ],
)
def test_others_stay(made):
    fractions = {"tenth": np.array(0.1, np.float32), "one": np.array(1, np.float32)}
    model = ir.from_proto(graph([made], constants=CONSTANTS | fractions))
    assert fold_constants(model) == 0


def test_a_dtype_is_known_by_the_constant_that_has_it():
    """The exporter's `arange` without a dtype: no value in between says its type."""
    made = [onnx_constant("like", 1.0), node("CastLike", ["whole", "like"], ["k"])]
    model = ir.from_proto(graph(made))
    assert fold_constants(model) == 2
    assert model.graph.initializers["k"].const_value.numpy().dtype == np.float32


def test_what_makes_an_output_stays():
    made = proto([node("Neg", ["odd"], ["y"])], [], [("y", FLOAT, [9])], CONSTANTS)
    model = ir.from_proto(made)
    assert fold_constants(model) == 0
    assert model.graph.outputs[0].producer() is not None


def test_equal_results_are_stored_once_and_a_negative_zero_is_not_zero():
    zero, minus = (onnx_constant(name, value) for name, value in (("p", 0.0), ("m", -0.0)))
    again = onnx_constant("q", 0.0)
    ends = [node("Add", ["x", name], [f"y{name}"]) for name in "pqm"]
    outputs = [(f"y{name}", FLOAT, [1]) for name in "pqm"]
    model = ir.from_proto(proto([zero, again, minus, *ends], [("x", FLOAT, [1])], outputs))
    assert fold_constants(model) == 3
    assert [item.inputs[1].name for item in model.graph] == ["p", "p", "m"]
    assert np.signbit(model.graph.initializers["m"].const_value.numpy())


def onnx_constant(name, value):
    return node("Constant", [], [name], value_float=value)


def test_a_table_that_would_fill_the_file_is_left_to_the_graph(monkeypatch):
    monkeypatch.setattr(folding, "LARGEST_BYTES", 64)
    assert fold_constants(ir.from_proto(graph([FOLDED["Expand"][0]], INT64))) == 0
    assert fold_constants(ir.from_proto(graph([FOLDED["Cast to half"][0]], HALF))) == 1
    big = {"w": np.ones((5, 5), np.float32)}
    assert fold_constants(ir.from_proto(graph([node("Neg", ["w"], ["k"])], constants=big))) == 0


def test_a_weight_is_transposed_without_a_copy(monkeypatch):
    monkeypatch.setattr(folding, "LARGEST_BYTES", 64)
    weight = np.arange(25, dtype=np.float32).reshape(5, 5)
    model = ir.from_proto(graph([node("Transpose", ["w"], ["k"], perm=[1, 0])], constants={"w": weight}))
    stored = ir.Tensor(weight)
    model.graph.initializers["w"].const_value = stored
    assert fold_constants(model) == 1
    result = model.graph.initializers["k"].const_value
    assert np.shares_memory(result.numpy(), weight)
    assert result.tobytes() == weight.T.tobytes()
