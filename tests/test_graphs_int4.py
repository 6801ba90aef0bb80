"""A product with weights of four bits as a graph: what lies in the file, read by others than this package."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.contracts.target import targets
from sttm_export.graphs.export import OPSET, data_file, export_graph
from sttm_export.graphs.rules import check_rules
from sttm_export.quantization.int4 import quantize
from sttm_export.quantization.int4_product import Int4Linear
from sttm_export.runtime.ort_session import OrtSession

ROWS, WIDTH, OUTPUTS = 3, 256, 48
GRAPH = GraphSpec(
    "product",
    (TensorSpec("x", (ROWS, WIDTH), "float16", "rows"),),
    (TensorSpec("y", (ROWS, OUTPUTS), "float16", "products, one behind the other"),),
    int4=True,
)


class Twice(nn.Module):
    """Two products; the first goes back to the width of the second."""

    def __init__(self, seed=0):
        super().__init__()
        noise = torch.Generator().manual_seed(seed)
        self.weights = [torch.randn(*shape, generator=noise) / 16 for shape in ((WIDTH, WIDTH), (OUTPUTS, WIDTH))]
        self.first, self.second = Int4Linear(WIDTH, WIDTH), Int4Linear(WIDTH, OUTPUTS)
        for product, weight in zip((self.first, self.second), self.weights, strict=True):
            product.load_state_dict(quantize(weight)._asdict())

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture(scope="module")
def module():
    return Twice().half().eval()


@pytest.fixture(scope="module", params=["fp32", "default"])
def path(request, module, tmp_path_factory):
    return export_graph(module, GRAPH, tmp_path_factory.mktemp(request.param), accumulate=request.param)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float16)


def wide(module, rows):
    """What the module gives in float32."""
    with torch.no_grad():
        return copy.deepcopy(module).float()(torch.from_numpy(rows.astype(np.float32))).numpy()


def test_opset_and_blocks(path):
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
    assert [(row.domain, row.version) for row in model.opset_import] == [("", 21)]
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(nodes) == 2, "nothing folds them"
    for node in nodes:
        assert {row.name: row.i for row in node.attribute} == {"axis": 0, "block_size": 128}
        assert len(node.input) == 2, "no zero point"


def test_weights_lie_in_the_file_two_a_byte(path, module):
    """The bytes of the external data, read with NumPy alone, are the quantized weights, transposed."""
    model = onnx.load(path, load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    data = np.fromfile(data_file(path), np.uint8)
    for name, wanted in zip(("first", "second"), module.weights, strict=True):
        tensor = tensors[f"{name}.weight"]
        assert onnx.TensorProto.DataType.Name(tensor.data_type) == "INT4"
        where = {row.key: row.value for row in tensor.external_data}
        size = int(where["length"])
        assert 2 * size == np.prod(tensor.dims)
        packed = data[int(where["offset"]) :][:size]
        halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(tensor.dims).astype(np.int64)
        numbers = np.where(halves > 7, halves - 16, halves)
        scales = onnx.numpy_helper.to_array(tensors[f"{name}.scale"], str(path.parent)).astype(np.float64)
        made = numbers * scales.repeat(128, axis=0)
        gap = np.linalg.norm(made.T - wanted.double().numpy()) / np.linalg.norm(wanted.double().numpy())
        assert 0.08 < gap < 0.12
    assert len(data) < (WIDTH + OUTPUTS) * WIDTH * 0.65


def test_onnx_runtime_computes_what_the_module_does(path, module, rows):
    made = OrtSession(path, GRAPH).run({"x": rows})["y"]
    expected = wide(module, rows)
    assert np.linalg.norm(made - expected) / np.linalg.norm(expected) < 2e-3


def test_onnx_itself_agrees(path, module, rows):
    (made,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": rows})
    expected = wide(module, rows)
    assert np.linalg.norm(made - expected) / np.linalg.norm(expected) < 5e-3


def test_products_ask_for_float32_sums_as_others_do(module, tmp_path):
    model = onnx.load(export_graph(module, GRAPH, tmp_path), load_external_data=False)
    maker = {name: node for node in model.graph.node for name in node.output}
    for product in (node for node in model.graph.node if node.op_type == "MatMul"):
        cast = maker[product.input[1]]
        assert (cast.op_type, maker[cast.input[0]].op_type) == ("Cast", "DequantizeLinear")


def test_two_exports_give_the_same_bytes(module, tmp_path):
    first, second = (export_graph(module, GRAPH, tmp_path / name) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert data_file(first).read_bytes() == data_file(second).read_bytes()


def test_graphs_without_such_weights_keep_their_opset(tmp_path):
    graph = export_graph(nn.Linear(WIDTH, OUTPUTS).half(), GRAPH, tmp_path)
    assert onnx.load(graph, load_external_data=False).opset_import[0].version == OPSET == 20


@pytest.mark.parametrize("target", targets().values(), ids=lambda target: target.name)
def test_targets_that_read_it_have_no_objection(path, target):
    found = check_rules(path, target)
    if target.opsets[1] >= 21:
        assert not found
        assert "int4" in target.precisions
        return
    assert "int4" in target.lacks
    assert f"opset 21, which INT4 weights need, {target.name} reads 9 to 20" in str(found[0])
    assert "without --decoder-precision int4 all graphs have it" in str(found[0])
