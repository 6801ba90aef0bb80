import numpy as np
import onnx
import pytest
from helpers_graphs import FLOAT, INT32, node, proto, save, tiny_module, tiny_spec

from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.errors import UserError
from sttm_export.graphs.check import check_external_data, check_graph, check_static
from sttm_export.graphs.export import data_file, export_graph
from sttm_export.graphs.faults import GraphError
from sttm_export.graphs.structure import attribute, label, load_structure


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return export_graph(tiny_module(), tiny_spec(), tmp_path_factory.mktemp("good"))


@pytest.fixture
def copy(good, tmp_path):
    """The exported graph in a directory of its own, to be damaged."""
    for file in (good, data_file(good)):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / good.name


def edit(path, change):
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())


def external(model):
    return next(t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL)


def set_entry(model, key, value):
    next(row for row in external(model).external_data if row.key == key).value = value


def test_good_graph_passes(copy):
    check_graph(copy, tiny_spec())


def test_missing_graph_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*none.onnx: No such file or directory; give the path"):
        check_graph(tmp_path / "none.onnx", tiny_spec())


def test_file_that_is_no_graph_is_a_user_error(tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match=r"text.onnx is not an ONNX graph"):
        check_graph(tmp_path / "text.onnx", tiny_spec())


def test_weights_missing(copy):
    data_file(copy).unlink()
    with pytest.raises(GraphError, match=r"Tensor '.+' lies in tiny.onnx.data, which is missing beside tiny.onnx"):
        check_graph(copy, tiny_spec())


def test_weights_cut_short(copy):
    data_file(copy).write_bytes(data_file(copy).read_bytes()[:-4])
    with pytest.raises(GraphError, match=r"tiny.onnx.data ends before tensor '.+' does"):
        check_graph(copy, tiny_spec())


def test_weights_of_another_export(copy):
    data_file(copy).write_bytes(data_file(copy).read_bytes() + b"more")
    with pytest.raises(GraphError, match=r"tiny.onnx.data has \d+ bytes, but the tensors of tiny.onnx end at \d+"):
        check_graph(copy, tiny_spec())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../tiny.onnx.data", "lies in '../tiny.onnx.data', expected a file beside"),
        ("location", "", "lies in '', expected a file beside"),
        ("length", "12", r"needs \d+ bytes, but the graph says 12"),
    ],
)
def test_external_data_entries(copy, key, value, message):
    edit(copy, lambda model: set_entry(model, key, value))
    with pytest.raises(GraphError, match=message):
        check_external_data(load_structure(copy))


def test_unknown_operator_is_named(copy):
    def change(model):
        model.graph.node[0].op_type = "Mutmal"

    edit(copy, change)
    with pytest.raises(GraphError, match="Mutmal"):
        check_graph(copy, tiny_spec())


def test_contradicting_shapes_are_named(copy):
    def change(model):
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 7

    edit(copy, change)
    with pytest.raises(GraphError, match=r"Shapes or types of tiny.onnx contradict each other.*"):
        check_graph(copy, tiny_spec())


def test_dynamic_input_is_named(tmp_path):
    path = save(
        proto([node("Relu", ["x"], ["y"])], [("x", FLOAT, ["frames", 2])], [("y", FLOAT, ["frames", 2])]), tmp_path
    )
    with pytest.raises(GraphError, match=r"The shape of input 'x' is \[frames, 2\], expected numbers only"):
        check_static(load_structure(path))


def test_dynamic_inner_value_is_named(tmp_path):
    nodes = [node("NonZero", ["x"], ["found"]), node("ReduceMax", ["found"], ["y"], keepdims=0)]
    path = save(proto(nodes, [("x", FLOAT, [2])], [("y", onnx.TensorProto.INT64, [])]), tmp_path)
    with pytest.raises(
        GraphError, match=r"The shape of tensor 'found' of NonZero 'NonZero_found' is \[1, .+\], expected"
    ):
        check_static(load_structure(path))


def test_value_of_unknown_type_is_named(tmp_path):
    nodes = [onnx.helper.make_node("Odd", ["x"], ["h"], domain="other"), node("Relu", ["h"], ["y"])]
    model = proto(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])])
    model.opset_import.append(onnx.helper.make_opsetid("other", 1))
    with pytest.raises(GraphError, match="The type of tensor 'h' of Odd 'h' is unknown"):
        check_static(load_structure(save(model, tmp_path)))


def test_inner_value_of_unknown_rank_is_named(tmp_path):
    nodes = [node("Reshape", ["x", "shape"], ["h"]), node("ReduceMax", ["h"], ["y"], keepdims=0)]
    inputs = [("x", FLOAT, [4]), ("shape", onnx.TensorProto.INT64, None)]
    with pytest.raises(GraphError, match=r"of Reshape 'Reshape_h' is of unknown rank"):
        path = save(proto(nodes, inputs, [("y", FLOAT, [])]), tmp_path)
        structure = load_structure(path)
        structure.types["shape"] = structure.types["x"]
        check_static(structure)


def test_names_and_their_order_are_those_declared(copy):
    spec = tiny_spec()
    swapped = GraphSpec(spec.name, spec.inputs, (spec.outputs[1], spec.outputs[0], *spec.outputs[2:]))
    with pytest.raises(
        GraphError, match=r"tiny: output names are \['tokens', 'num_tokens'.*declared are \['num_tokens'"
    ):
        check_graph(copy, swapped)
    fewer = GraphSpec(spec.name, spec.inputs[:2], spec.outputs)
    with pytest.raises(GraphError, match="tiny: input names are"):
        check_graph(copy, fewer)


def test_shapes_that_the_graph_computes_are_followed(tmp_path):
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["rows"]),
        node("Concat", ["rows", "minus"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "minus": np.array([-1])}
    path = save(proto(nodes, [("x", FLOAT, [2, 3, 4])], [("y", FLOAT, None)], constants), tmp_path)
    assert load_structure(path).type_of("y").shape == (2, 12)


def test_structure_sees_subgraphs_and_constants(tmp_path):
    branch = onnx.helper.make_graph(
        [node("Constant", [], ["inner"], value_float=1.0)],
        "b",
        [],
        [onnx.helper.make_tensor_value_info("inner", FLOAT, [])],
    )
    nodes = [
        node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.array([3], np.int32))),
    ]
    path = save(
        proto(nodes, [("c", onnx.TensorProto.BOOL, [])], [("y", FLOAT, [])], {"w": np.ones(2, np.float32)}), tmp_path
    )
    structure = load_structure(path)
    assert [item.op_type for item in structure.nodes] == ["If", "Constant", "Constant", "Constant"]
    assert structure.constant("k").tolist() == [3]
    assert structure.constant("w").tolist() == [1, 1]
    assert structure.constant("y") is None
    assert structure.type_of("nowhere").dtype == ""


def test_labels_and_attributes():
    scatter = onnx.helper.make_node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")
    assert label(scatter) == "ScatterND 'y'"
    assert attribute(scatter, "reduction") == "add"
    assert attribute(scatter, "axis", -1) == -1


def test_graph_with_int32_types(tmp_path):
    spec = GraphSpec("graph", (TensorSpec("x", (2,), "int32", ""),), (TensorSpec("y", (2,), "int32", ""),))
    path = save(proto([node("Neg", ["x"], ["y"])], [("x", INT32, [2])], [("y", INT32, [2])]), tmp_path)
    check_graph(path, spec)
