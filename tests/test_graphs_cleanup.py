import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers_graphs import BOOL, FLOAT, HALF, INT32, INT64, node, proto, run, save

from sttm_export import __version__
from sttm_export.graphs import cleanup
from sttm_export.graphs.constants import merge_equal, shrink_uniform
from sttm_export.graphs.integers import narrow_bool_reductions, narrow_indices


def as_ir(model: onnx.ModelProto) -> ir.Model:
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def ops(model: ir.Model) -> list[str]:
    return [item.op_type for item in model.graph]


def same_result(before: onnx.ModelProto, after: ir.Model, directory, feeds):
    """Both graphs pass the checker and give equal results in ONNX Runtime."""
    changed = ir.to_proto(after)
    onnx.checker.check_model(changed, full_check=True)
    first, second = run(save(before, directory, "a.onnx"), feeds), run(save(changed, directory, "b.onnx"), feeds)
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)


def test_rule_1_functions_are_inlined_and_their_import_goes():
    function = onnx.helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [onnx.helper.make_opsetid("", 20)]
    )
    model = proto(
        [onnx.helper.make_node("Twice", ["x"], ["y"], domain="local")], [("x", FLOAT, [2])], [("y", FLOAT, [2])]
    )
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    changed = ir.from_proto(model)
    cleanup.clean_up(changed)
    assert ops(changed) == ["Add"]
    assert not changed.functions
    assert set(changed.opset_imports) == {""}


def test_rule_2_no_op_casts_and_identities_go():
    nodes = [
        node("Cast", ["x"], ["a"], to=FLOAT),
        node("Identity", ["a"], ["b"]),
        node("Cast", ["b"], ["c"], to=HALF),
        node("Cast", ["c"], ["y"], to=FLOAT),
    ]
    model = as_ir(proto(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    cleanup.clean_up(model)
    assert ops(model) == ["Cast", "Cast"]


def test_rule_2_identity_from_input_to_output_stays():
    model = as_ir(proto([node("Identity", ["x"], ["y"])], [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    cleanup.clean_up(model)
    assert ops(model) == ["Identity"]
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize("op", ["Gather", "GatherElements"])
def test_rule_3_indices_stay_int32(op, tmp_path):
    nodes = [node("Cast", ["i"], ["wide"], to=INT64), node(op, ["x", "wide"], ["y"])]
    before = proto(nodes, [("x", FLOAT, [4]), ("i", INT32, [3])], [("y", FLOAT, [3])])
    after = as_ir(before)
    assert narrow_indices(after) == 1
    cleanup.drop_unused(after)
    assert ops(after) == [op]
    same_result(before, after, tmp_path, {"x": np.arange(4, dtype=np.float32), "i": np.array([3, 0, 1], np.int32)})


def test_rule_3_through_moves_for_scatter(tmp_path):
    nodes = [
        node("Cast", ["i"], ["wide"], to=INT64),
        node("Unsqueeze", ["wide", "axis"], ["column"]),
        node("Expand", ["column", "shape"], ["full"]),
        node("ScatterElements", ["x", "full", "u"], ["y"], axis=0),
    ]
    inputs = [("x", FLOAT, [4, 2]), ("i", INT32, [3]), ("u", FLOAT, [3, 2])]
    before = proto(nodes, inputs, [("y", FLOAT, [4, 2])], {"axis": np.array([1]), "shape": np.array([3, 2])})
    after = as_ir(before)
    assert narrow_indices(after) == 1
    cleanup.drop_unused(after)
    assert "Cast" not in ops(after)
    assert [value.dtype for item in after.graph for value in item.outputs][:2] == [ir.DataType.INT32] * 2
    feeds = {"x": np.zeros((4, 2), np.float32), "i": np.array([3, 0, 1], np.int32), "u": np.ones((3, 2), np.float32)}
    same_result(before, after, tmp_path, feeds)


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([node("GatherND", ["x", "wide"], ["y"])], id="GatherND wants INT64"),
        pytest.param(
            [
                node("Identity", ["wide"], ["moved"]),
                node("Gather", ["x", "moved"], ["g"]),
                node("Cast", ["moved"], ["y"], to=FLOAT),
            ],
            id="a second reader of the moved value",
        ),
        pytest.param([node("Neg", ["wide"], ["n"]), node("Gather", ["x", "n"], ["y"])], id="arithmetic in between"),
    ],
)
def test_rule_3_leaves_alone_what_needs_int64(nodes):
    model = proto(
        [node("Cast", ["i"], ["wide"], to=INT64), *nodes],
        [("x", FLOAT, [4]), ("i", INT32, [3, 1])],
        [("y", FLOAT, None)],
    )
    assert narrow_indices(as_ir(model)) == 0


@pytest.mark.parametrize(("op", "expected"), [("ReduceMax", True), ("ReduceMin", False)])
def test_rule_3_truth_values_are_reduced_in_int32(op, expected, tmp_path):
    nodes = [
        node("Cast", ["x"], ["wide"], to=INT64),
        node(op, ["wide"], ["r"], keepdims=0),
        node("Cast", ["r"], ["y"], to=BOOL),
    ]
    before = proto(nodes, [("x", BOOL, [3])], [("y", BOOL, [])])
    after = as_ir(before)
    assert narrow_bool_reductions(after) == 1
    assert [value.dtype for item in after.graph for value in item.outputs][:2] == [ir.DataType.INT32] * 2
    feeds = {"x": np.array([True, False, False])}
    same_result(before, after, tmp_path, feeds)
    assert run(tmp_path / "b.onnx", feeds)[0] == expected


def test_rule_3_counts_that_leave_the_graph_as_int64_stay():
    nodes = [node("Cast", ["x"], ["wide"], to=INT64), node("ReduceSum", ["wide"], ["y"], keepdims=0)]
    assert narrow_bool_reductions(as_ir(proto(nodes, [("x", BOOL, [3])], [("y", INT64, [])]))) == 0


def test_rule_4_unused_nodes_and_weights_go():
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["w"], ["unused"])]
    model = as_ir(proto(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])], {"w": np.ones(3, np.float32)}))
    cleanup.clean_up(model)
    assert ops(model) == ["Relu"]
    assert not model.graph.initializers


def test_rule_4_constant_of_one_value_is_stored_once(tmp_path):
    zeros = {"zeros": np.zeros((32, 64), np.float32)}
    before = proto(
        [node("Where", ["c", "x", "zeros"], ["y"])],
        [("c", BOOL, [32, 1]), ("x", FLOAT, [32, 64])],
        [("y", FLOAT, [32, 64])],
        zeros,
    )
    after = as_ir(before)
    assert shrink_uniform(after) == 1
    assert tuple(after.graph.initializers["zeros"].shape) == (1, 1)
    feeds = {"c": np.arange(32)[:, None] % 2 == 0, "x": np.random.default_rng(0).random((32, 64), np.float32)}
    same_result(before, after, tmp_path, feeds)


@pytest.mark.parametrize(
    ("nodes", "constant"),
    [
        pytest.param([node("Where", ["c", "s", "k"], ["y"])], np.zeros((32, 64)), id="gives the output its shape"),
        pytest.param([node("Where", ["c", "x", "k"], ["y"])], np.eye(32, 64), id="differs in the middle"),
        pytest.param(
            [node("Where", ["c", "x", "k"], ["y"])], np.r_[np.zeros(2047), -0.0].reshape(32, 64), id="a negative zero"
        ),
        pytest.param([node("MatMul", ["x", "k"], ["y"])], np.zeros((64, 64)), id="no broadcasting"),
    ],
)
def test_rule_4_other_constants_stay(nodes, constant):
    inputs = [("c", BOOL, [32, 1]), ("x", FLOAT, [32, 64]), ("s", FLOAT, [])]
    model = as_ir(proto(nodes, inputs, [("y", FLOAT, [32, 64])], {"k": constant.astype(np.float32)}))
    assert shrink_uniform(model) == 0


def test_rule_4_equal_constants_are_stored_once():
    table = np.arange(2000, dtype=np.float32)
    nodes = [node("Add", ["x", "a"], ["z"]), node("Mul", ["z", "b"], ["y"])]
    model = as_ir(proto(nodes, [("x", FLOAT, [2000])], [("y", FLOAT, [2000])], {"a": table, "b": table}))
    merge_equal(model)
    assert len(model.graph.initializers) == 1


def test_rule_5_names_tell_module_op_and_position():
    model = as_ir(
        proto([node("Relu", ["x"], ["h"]), node("Neg", ["h"], ["y"])], [("x", FLOAT, [2])], [("y", FLOAT, [2])])
    )
    first = model.graph[0]
    first.metadata_props[cleanup.SCOPES] = "['', 'layers.3', 'layers.3.mlp', 'relu']"
    model.graph[1].metadata_props[cleanup.SCOPES] = "not a list ["
    cleanup.name_values(model)
    assert [item.name for item in model.graph] == ["layers.3.mlp/Relu_0", "Neg_1"]
    assert first.outputs[0].name == "layers.3.mlp/Relu_0_out0"
    assert model.graph.outputs[0].name == "y"


def test_rule_5_a_weight_may_have_the_name_already():
    nodes = [node("Add", ["x", "Add_0_out0"], ["h"]), node("Neg", ["h"], ["y"])]
    model = as_ir(proto(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])], {"Add_0_out0": np.ones(2, np.float32)}))
    cleanup.name_values(model)
    assert model.graph[0].outputs[0].name == "Add_0_out0_"
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_rule_5_says_what_the_names_were():
    nodes = [node("Abs", ["x"], ["val_7"]), node("Relu", ["val_7"], ["y"])]
    model = as_ir(proto(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    names = cleanup.clean_up(model)
    assert names == {model.graph[0].outputs[0].name: "val_7", "y": "y"}
    assert "val_7" not in names


def test_rule_6_docs_and_metadata_go_everywhere():
    model = proto(
        [node("Add", ["x", "w"], ["h"]), node("Neg", ["h"], ["y"])],
        [("x", FLOAT, [2])],
        [("y", FLOAT, [2])],
        {"w": np.ones(2, np.float32)},
    )
    graph = model.graph
    model.doc_string = graph.doc_string = graph.node[0].doc_string = "SECRET"
    graph.input[0].doc_string = graph.output[0].doc_string = graph.initializer[0].doc_string = "SECRET"
    for holder in (model, graph, graph.node[0], graph.input[0], graph.initializer[0]):
        holder.metadata_props.add(key="trace", value="SECRET")
    changed = ir.from_proto(model)
    cleanup.strip_traces(changed)
    assert b"SECRET" in model.SerializeToString()
    assert b"SECRET" not in ir.to_proto(changed).SerializeToString()


def test_rule_7_producer_is_this_package():
    model = as_ir(proto([node("Relu", ["x"], ["y"])], [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    cleanup.sign(model)
    assert (model.producer_name, model.producer_version) == ("sttm-export", __version__)
