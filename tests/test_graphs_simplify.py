"""Simplifications: each one by itself, on inputs that feel every rounding."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers_graphs import BOOL, FLOAT, HALF, INT32, INT64, node, proto, run, same_bits, save

from sttm_export.graphs import cleanup, simplify

# Zeros of both signs, denormals, what is lost beside 1, the ends of the range, and what is no number.
ODD = np.array([0.0, -0.0, 1e-45, 1e-9, 1e-8, 1.0, 1e19, 3e38, np.inf, -np.inf, np.nan, -1e-8], np.float32)
X = [("x", FLOAT, [12])]


def as_ir(model: onnx.ModelProto) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def ops(model: ir.Model) -> list[str]:
    return [item.op_type for item in model.graph]


def unchanged(given: onnx.ModelProto, model: ir.Model, directory, x=ODD) -> None:
    changed = ir.to_proto(model)
    onnx.checker.check_model(changed, full_check=True)
    same_bits(run(save(given, directory, "a.onnx"), {"x": x}), run(save(changed, directory, "b.onnx"), {"x": x}))


@pytest.mark.parametrize(
    ("op", "constant"),
    [("Add", 1e-8), ("Sub", 1e-8), ("Add", 0.0), ("Mul", 1.0), ("Div", 1.0), ("Max", -1e30), ("Min", 1e30)],
)
def test_arithmetic_stays_however_small(op, constant, tmp_path):
    """The exporter's optimizer takes some of these for nothing: x + 1e-8, which keeps zero vectors apart from NaN."""
    given = proto(
        [node(op, ["x", "c"], ["h"]), node("Neg", ["h"], ["y"])],
        X,
        [("y", FLOAT, [12])],
        {"c": np.array(constant, np.float32)},
    )
    model = as_ir(given)
    cleanup.clean_up(model)
    assert ops(model) == [op, "Neg"]
    unchanged(given, model, tmp_path)


def test_casts_there_and_back_go_where_nothing_is_lost(tmp_path):
    nodes = [
        node("Cast", ["x"], ["wide"], to=INT64),
        node("Cast", ["wide"], ["back"], to=INT32),
        node("Neg", ["back"], ["y"]),
    ]
    given = proto(nodes, [("x", INT32, [2])], [("y", INT32, [2])])
    model = as_ir(given)
    assert simplify.drop_no_op_casts(model) == 1
    cleanup.drop_unused(model)
    assert ops(model) == ["Neg"]
    unchanged(given, model, tmp_path, np.array([-(2**31) + 1, 7], np.int32))


def test_casts_that_round_stay():
    nodes = [
        node("Cast", ["x"], ["narrow"], to=HALF),
        node("Cast", ["narrow"], ["back"], to=FLOAT),
        node("Neg", ["back"], ["y"]),
    ]
    assert simplify.drop_no_op_casts(as_ir(proto(nodes, X, [("y", FLOAT, [12])]))) == 0


def test_a_cast_to_the_dtype_of_another_value_says_which(tmp_path):
    nodes = [node("CastLike", ["x", "like"], ["h"]), node("Neg", ["h"], ["y"])]
    given = proto(nodes, X, [("y", HALF, [12])], {"like": np.zeros(1, np.float16)})
    model = as_ir(given)
    simplify.drop_no_op_casts(model)
    assert ops(model) == ["Cast", "Neg"]
    unchanged(given, model, tmp_path)


def test_views_of_views_read_the_value_itself(tmp_path):
    nodes = [
        node("Unsqueeze", ["x", "axis"], ["a"]),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Flatten", ["b"], ["c"]),
        node("Neg", ["c"], ["y"]),
        node("Reshape", ["c", "flat"], ["d"]),
        node("Abs", ["d"], ["z"]),
    ]
    constants = {"axis": np.array([0]), "shape": np.array([3, 2, 2]), "flat": np.array([-1])}
    given = proto(nodes, X, [("y", FLOAT, [3, 4]), ("z", FLOAT, [12])], constants)
    model = as_ir(given)
    assert simplify.join_views(model) > 0
    cleanup.drop_unused(model)
    assert ops(model) == ["Reshape", "Neg", "Abs"]
    assert model.graph[0].inputs[1].const_value.numpy().tolist() == [3, 4]
    unchanged(given, model, tmp_path)


def test_a_view_that_makes_an_output_stays(tmp_path):
    given = proto([node("Reshape", ["x", "s"], ["y"])], X, [("y", FLOAT, [12])], {"s": np.array([-1])})
    model = as_ir(given)
    simplify.join_views(model)
    assert ops(model) == ["Reshape"]
    unchanged(given, model, tmp_path)


def test_transpositions_are_joined_and_go_where_they_undo_each_other(tmp_path):
    nodes = [
        node("Reshape", ["x", "s"], ["h"]),
        node("Transpose", ["h"], ["a"], perm=[2, 0, 1]),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        node("Transpose", ["a"], ["c"], perm=[1, 2, 0]),
        node("Neg", ["b"], ["y"]),
        node("Neg", ["c"], ["z"]),
    ]
    given = proto(nodes, X, [("y", FLOAT, [3, 2, 2]), ("z", FLOAT, [2, 2, 3])], {"s": np.array([2, 2, 3])})
    model = as_ir(given)
    assert simplify.join_transpositions(model) == 2
    assert simplify.drop_still_moves(model) == 1
    cleanup.drop_unused(model)
    assert ops(model) == ["Reshape", "Transpose", "Neg", "Neg"]
    unchanged(given, model, tmp_path)


def test_a_move_of_nothing_that_makes_an_output_hands_its_name_on(tmp_path):
    given = proto([node("Neg", ["x"], ["h"]), node("Transpose", ["h"], ["y"], perm=[0])], X, [("y", FLOAT, [12])])
    model = as_ir(given)
    assert simplify.drop_still_moves(model) == 1
    assert ops(model) == ["Neg"]
    unchanged(given, model, tmp_path)


SLICE = {"start": np.array([0]), "end": np.array([99]), "axis": np.array([0]), "step": np.array([1])}


@pytest.mark.parametrize(
    ("move", "constants", "goes"),
    [
        (node("Expand", ["x", "s"], ["h"]), {"s": np.array([12])}, True),
        (node("Expand", ["x", "s"], ["h"]), {"s": np.array([2, 12])}, False),
        (node("Concat", ["x"], ["h"], axis=0), {}, True),
        (node("Slice", ["x", "start", "end", "axis", "step"], ["h"]), SLICE, True),
        (node("Slice", ["x", "start", "end", "axis"], ["h"]), SLICE, True),
        (node("Slice", ["x", "start", "end", "axis"], ["h"]), SLICE | {"end": np.array([11])}, False),
        (
            node("Slice", ["x", "start", "end", "axis", "step"], ["h"]),
            {"start": np.array([11]), "end": np.array([-99]), "axis": np.array([0]), "step": np.array([-1])},
            False,
        ),
    ],
)
def test_moves_that_move_nothing_go(move, constants, goes, tmp_path):
    given = proto([move, node("Neg", ["h"], ["y"])], X, [("y", FLOAT, None)], constants)
    model = as_ir(given)
    assert simplify.drop_still_moves(model) == goes
    assert (len(ops(model)) == 1) == goes
    unchanged(given, model, tmp_path)


@pytest.mark.parametrize(
    ("reader", "rewired", "goes"),
    [
        (node("Add", ["h", "table"], ["y"]), 1, True),
        (node("Add", ["h", "h"], ["y"]), 1, False),
        (node("MatMul", ["h", "square"], ["y"]), 0, False),
    ],
)
def test_expansions_go_before_what_broadcasts(reader, rewired, goes, tmp_path):
    constants = {"s": np.array([12, 12]), "table": np.ones((12, 1), np.float32), "square": np.eye(12, dtype=np.float32)}
    given = proto([node("Expand", ["x", "s"], ["h"]), reader], X, [("y", FLOAT, [12, 12])], constants)
    model = as_ir(given)
    assert simplify.drop_expansions(model) == rewired
    cleanup.drop_unused(model)
    assert ("Expand" not in ops(model)) == goes
    if reader.op_type == "Add":
        unchanged(given, model, tmp_path)


def test_nodes_that_do_the_same_are_kept_once(tmp_path):
    nodes = [
        node("Abs", ["x"], ["a"]),
        node("Abs", ["x"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("Add", ["b", "a"], ["d"]),
        node("Neg", ["c"], ["y"]),
        node("Abs", ["d"], ["z"]),
    ]
    given = proto(nodes, X, [("y", FLOAT, [12]), ("z", FLOAT, [12])])
    model = as_ir(given)
    assert simplify.merge_equal_nodes(model) == 2
    assert ops(model) == ["Abs", "Add", "Neg", "Abs"]
    unchanged(given, model, tmp_path)


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([node("Elu", ["x"], [n], alpha=a) for n, a in (("a", 0.0), ("b", -0.0))], id="a negative zero"),
        pytest.param([node("RandomUniformLike", ["x"], [n]) for n in "ab"], id="chance"),
        pytest.param([node("Abs", ["x"], ["a"]), node("Neg", ["x"], ["b"])], id="another operator"),
    ],
)
def test_nodes_that_could_differ_are_all_kept(nodes):
    ends = [node("Neg", ["a"], ["y"]), node("Neg", ["b"], ["z"])]
    model = as_ir(proto([*nodes, *ends], X, [("y", FLOAT, [12]), ("z", FLOAT, [12])]))
    assert simplify.merge_equal_nodes(model) == 0


def test_types_are_noted_for_every_value():
    model = ir.from_proto(proto([node("Less", ["x", "x"], ["h"]), node("Not", ["h"], ["y"])], X, [("y", BOOL, [12])]))
    assert model.graph[0].outputs[0].dtype is None
    simplify.infer_types(model)
    assert model.graph[0].outputs[0].dtype == ir.DataType.BOOL
    assert list(model.graph[0].outputs[0].shape) == [12]
