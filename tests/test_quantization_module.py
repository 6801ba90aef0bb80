"""Int8 products: by hand in integers, in ONNX Runtime, and as NVIDIA's builder makes them."""

import copy
import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers_int8 import calibrate, encoder, relative
from helpers_networks import tiny_model, tiny_pixels, tiny_state
from helpers_qwen2_vl import model_of, qwen_pixels, qwen_state, tiny_qwen

from sttm_export.contracts.target import find_target, targets
from sttm_export.families.modules import as_stage
from sttm_export.graphs.export import export_graph
from sttm_export.graphs.rules import check_rules
from sttm_export.quantization.integers import LEVELS, quantized_rows
from sttm_export.quantization.module import QuantizedLinear
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.validation.gates import derive_tolerance
from sttm_export.validation.metrics import compare

MODEL = tiny_model(image=112, hidden=64, intermediate=128, grid=(6, 6), channels=96)
QWEN = tiny_qwen(rows=8, columns=8, embed_dim=64)
SHAPE = (5, 7, 24)


def test_a_product_is_one_of_integers():
    """Counted in int64 by NumPy: the sums are exact, so only the last multiplication rounds."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((10, SHAPE[-1])).astype(np.float32), rng.standard_normal(10).astype(np.float32)
    x = (2.5 * rng.standard_normal(SHAPE)).astype(np.float32)
    linear = QuantizedLinear(torch.from_numpy(weight), torch.from_numpy(bias), 5.0)
    with torch.no_grad():
        made = linear(torch.from_numpy(x)).numpy()
    step = np.float32(5.0 / LEVELS)
    levels = np.clip(np.rint(x / step), -128, 127).astype(np.int64)
    assert np.abs(levels).max() == 128  # some of x lie beyond the range
    steps = np.abs(weight).max(1) / np.float32(LEVELS)
    columns = np.rint(weight / steps[:, None]).astype(np.int64)
    assert np.abs(columns).max() == LEVELS
    expected = (levels @ columns.T) * (np.float64(step) * steps) + bias
    assert np.abs(made - expected).max() < 1e-4


def test_every_output_of_a_weight_has_a_step_of_its_own():
    weight = torch.tensor([[1.0, -2.0, 0.5], [100.0, 3.0, -50.0], [0.0, 0.0, 0.0]])
    integers, steps = quantized_rows(weight)
    assert integers.tolist() == [[64, -127, 32], [127, 4, -64], [0, 0, 0]]
    assert torch.equal(steps[:2], torch.tensor([2.0, 100.0]) / 127)
    assert 0 < steps[2] < 1e-37


def int8_encoder(model, state, pixels, precision="fp16", only=None):
    """Part and module with int8 products; `only` picks points by name."""
    chosen = tuple(row for row in calibrate(model, state, pixels) if only is None or only in row.name)
    part = encoder(model, precision, chosen)
    return part, part.module(state)


LLAVA = (MODEL, tiny_state(MODEL), tiny_pixels(MODEL, 2, 1))
QWEN2_VL = (model_of(QWEN), qwen_state(QWEN), qwen_pixels(QWEN, 1))


@pytest.fixture(scope="module", params=[LLAVA, QWEN2_VL], ids=["llava", "qwen2-vl"])
def exported(request, tmp_path_factory):
    """Part, module, file and pixels of an int8 encoder as it is exported."""
    part, module = int8_encoder(*request.param)
    return part, module, export_graph(module, part.graph, tmp_path_factory.mktemp("int8")), request.param[2]


def test_the_exported_graph_computes_what_the_module_does(exported):
    part, module, path, pixels = exported
    given, judge = {"pixel_values": pixels.half().numpy()}, part.graph.judge
    expected = as_stage(copy.deepcopy(module), part.graph)(given, {})["features"]
    figures = compare(OrtSession(path, part.graph).run(given)["features"], expected)
    allowed = derive_tolerance(store="float16", length=judge.longest_sum, layers=judge.layers, int8=judge.int8).relative
    assert judge.int8
    assert figures.relative_needed < 0.8 * allowed
    assert figures.relative_frobenius < 0.5 * allowed


def test_in_float32_they_agree_to_the_last_roundings(tmp_path):
    """Where nothing is rounded on the way, hardly a number falls on another level; operators run one by one."""
    model, state, pixels = LLAVA
    part, module = int8_encoder(model, state, pixels, "fp32")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(export_graph(module, part.graph, tmp_path)), options)
    (made,) = session.run(None, {"pixel_values": pixels.numpy()})
    with torch.no_grad():
        assert relative(torch.from_numpy(made), module(pixels)) < 3e-3


def test_the_file_holds_weights_in_int8_and_keeps_every_rule(exported):
    part, module, path, _ = exported
    assert {name: check_rules(path, target) for name, target in targets().items()} == {name: [] for name in targets()}
    graph = onnx.load(path).graph
    stored = [row for row in graph.initializer if row.data_type == onnx.TensorProto.INT8 and row.dims]
    linears = [module.get_submodule(reader) for point in part.points for reader in point.readers]
    assert sorted(tuple(row.dims) for row in stored) == sorted(tuple(linear.integers.shape) for linear in linears)
    products = {output: node for node in graph.node for output in node.output}
    for node in (node for node in graph.node if node.op_type == "MatMul"):
        factors = [products[name].op_type for name in node.input if name in products]
        assert factors.count("DequantizeLinear") in (0, 2)
    names = {row.name for row in stored}
    assert sum(node.op_type == "DequantizeLinear" and node.input[0] in names for node in graph.node) == len(linears)


def test_what_stays_float_is_the_graph_that_it_was(tmp_path):
    """With one layer in int8, every other layer's operators and weights are those of the float16 export."""
    model, state, pixels = LLAVA
    part, module = int8_encoder(model, state, pixels, only="projector.fc2")
    plain = encoder(model, "fp16")
    files = (
        export_graph(module, part.graph, tmp_path / "some"),
        export_graph(plain.module(state), plain.graph, tmp_path / "none"),
    )
    some, none = (onnx.load(path).graph for path in files)
    # Transposed weights have no names of their modules; they are compared by what they hold.
    weights = [{(tuple(row.dims), row.raw_data) for row in graph.initializer} for graph in (some, none)]
    lost = weights[1] - weights[0]
    assert len(lost) == 1
    assert {dims for dims, _ in lost} == {(model.channels, model.channels)}
    operators = [[node.op_type for node in graph.node if node.name.startswith("tower")] for graph in (some, none)]
    assert operators[0] == operators[1]


def integer_products(engine):
    """Names of the products of an engine that have two int8 factors: it holds its program as text."""
    lines = [line.decode() for line in re.findall(rb"[\x20-\x7e]{6,}", engine)]
    types = {}
    for line in lines:
        if (name := re.search(r'tensor=\{.*?name="([^"]+)".*?type=(\w+) \}', line)) is not None:
            types[name[1]] = name[2]
    found = []
    for line in lines:
        product = re.search(r'fully_connected=\{ name="([^"]+)" output=\{[^}]*\} input=\{([^}]*)\}', line)
        factors = re.findall(r'"([^"]+)"', product[2])[:2] if product else []
        if [types.get(factor) for factor in factors] == ["int8", "int8"]:
            found.append(product[1])
    return found


def test_nvidias_builder_makes_integer_products(exported, tmp_path):
    """One for each Linear; those that read the same may be joined."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    from sttm_export.engines.build import EngineRequest, build_engine

    part, _, path, _ = exported
    engine = tmp_path / "x.engine"
    build_engine(EngineRequest(path, find_target("rtx"), "sm86"), engine)
    joined = "+".join(integer_products(engine.read_bytes()))
    readers = [reader for point in part.points for reader in point.readers]
    assert [reader for reader in readers if f"{reader}/MatMul" not in joined] == []


def test_eager_rounds_half_to_even():
    linear = QuantizedLinear(torch.eye(4), torch.zeros(4), 127.0)
    halves = torch.tensor([[0.5, 1.5, -2.5, 3.5]])
    with torch.no_grad():
        assert relative(linear(halves), torch.tensor([[0.0, 2.0, -2.0, 4.0]])) < 1e-6
