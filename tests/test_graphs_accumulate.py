"""What float16 products are summed in: asked for by casts, which ONNX Runtime and NVIDIA's builder both take."""

import re

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from helpers_networks import build_encoder, random_state, tiny_model
from torch import nn

from sttm_export.contracts.graph import ACCUMULATES, GraphSpec, TensorSpec, vision_encoder_graph
from sttm_export.contracts.target import find_target
from sttm_export.drift.parts import Chain, write_part
from sttm_export.drift.reference import Reference
from sttm_export.engines.build import EngineRequest, build_engine
from sttm_export.families.llava.siglip import SelfAttention
from sttm_export.graphs.export import export_graph
from sttm_export.validation.gates import derive_tolerance, judge
from sttm_export.validation.metrics import compare

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def spec_of(name, shape_in, shape_out, dtype="float16"):
    tensors = (TensorSpec(name, shape, dtype, "numbers") for name, shape in (("x", shape_in), ("y", shape_out)))
    return GraphSpec(name, *((tensor,) for tensor in tensors))


@pytest.fixture(scope="module", params=ACCUMULATES)
def encoder(request, tmp_path_factory):
    """The tiny encoder in float16: (what its sums are, model, declaration, module, path)."""
    model = tiny_model()
    spec = vision_encoder_graph(model, 2, "fp16")
    module = build_encoder(model, random_state(model, 7), "fp16")
    path = export_graph(module, spec, tmp_path_factory.mktemp(request.param), accumulate=request.param)
    return request.param, model, spec, module, path


def types_of(path):
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    declared = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in declared}
    return inferred.node, types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def test_every_product_takes_what_was_asked_for(encoder):
    accumulate, *_, path = encoder
    nodes, types = types_of(path)
    products = [node for node in nodes if node.op_type in {"MatMul", "Gemm", "Conv"}]
    layers = encoder[1].architecture["tower"]["layers"]
    assert len(products) >= 1 + 8 * layers + 2, "patches, eight a layer, projector; the resize is one, too"
    wanted = FLOAT if accumulate == "fp32" else HALF
    assert {types[name] for node in products for name in node.input} == {wanted}
    stored = {tensor.data_type for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    assert HALF in stored
    assert all(types[node.input[1]] == wanted for node in products)
    names = [node.name for node in nodes]
    assert any(name.startswith("tower.layers.0.mlp") and "/Cast_" in name for name in names), "casts have a module"


def test_every_product_has_casts_of_its_own_and_results_keep_their_names(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return torch.matmul(self.q(x), self.k(x))

    path = export_graph(Two().half(), spec_of("three", (8, 8), (8, 8)), tmp_path)
    nodes, types = types_of(path)
    casts = [node for node in nodes if node.op_type == "Cast"]
    readers = [sum(cast.output[0] in node.input for node in nodes) for cast in casts]
    assert len(casts) == 3 * (2 + 1) and sum(readers) == 8, "three products, the last result is the output"
    assert max(readers) == 1, "a shared cast would make TensorRT compute in float32 throughout"
    assert types["y"] == HALF
    assert onnx.load(path).graph.output[0].name == "y"


def test_float32_graphs_are_as_they_were(tmp_path):
    torch.manual_seed(0)
    module = nn.Linear(8, 8)
    one, other = (
        export_graph(module, spec_of("plain", (2, 8), (2, 8), "float32"), tmp_path / name, accumulate=name)
        for name in ACCUMULATES
    )
    assert one.read_bytes() == other.read_bytes()


def test_onnx_runtime_agrees_with_both(tmp_path):
    model = tiny_model()
    spec = vision_encoder_graph(model, 2, "fp16")
    module = build_encoder(model, random_state(model, 7), "fp16")
    pixels = np.random.default_rng(0).standard_normal(spec.inputs[0].shape).astype(np.float16)
    found = {}
    for name in ACCUMULATES:
        path = export_graph(module, spec, tmp_path / name, accumulate=name)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found[name],) = session.run(None, {"pixel_values": pixels})
    tolerance = derive_tolerance(
        store="float16", length=model.channels, layers=model.architecture["tower"]["layers"] + 2
    )
    gate = judge(compare(found["default"], found["fp32"]), tolerance)
    assert gate.passed, gate.reason


def test_the_drift_finder_knows_the_tensors_of_both(encoder):
    accumulate, _, spec, module, path = encoder
    reference = Reference(module, spec, accumulate)
    assert reference.node_names == [node.name for node in onnx.load(path).graph.node]
    without_bias = [part for part in reference.counterparts.values() if part.without_bias]
    linears = sum(isinstance(part, nn.Linear) for part in module.modules())
    assert len(without_bias) == linears
    _, types = types_of(path)
    named = [name for name, part in reference.counterparts.items() if part.without_bias]
    assert {types[name] for name in named} == {HALF}, "the product as it is stored, not the wide one"


def plan_of(module, spec, folder, accumulate):
    path = export_graph(module, spec, folder, accumulate=accumulate)
    build_engine(EngineRequest(path, find_target("rtx"), "sm86"), folder / "x.engine")
    return (folder / "x.engine").read_bytes()


def test_the_builder_takes_casts_as_wide_sums_and_keeps_narrow_weights(tmp_path):
    """What the text inside an engine says of its products; as TensorRT-RTX 1.7 writes it."""
    bindings = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    if not bindings.__version__.startswith("1.7."):
        pytest.skip("written down for TensorRT-RTX 1.7")
    torch.manual_seed(0)
    module = SelfAttention(256, 4).half().eval()
    spec = spec_of("attention", (1, 256, 256), (1, 256, 256))
    plans = {name: plan_of(module, spec, tmp_path / name, name) for name in ACCUMULATES}
    kinds = {name: set(re.findall(rb"accumulation_type=(\d)", plan)) for name, plan in plans.items()}
    assert kinds == {"fp32": {b"2"}, "default": {b"0"}}
    assert all(b"gemm_mha_v2" in plan for plan in plans.values()), "attention is fused in both"
    narrow = {name for name, plan in plans.items() if b"Ampere_hmma_fp16_traits" in plan}
    assert narrow == {"default"}, "probabilities times values are summed in float16 unless the graph asks for more"
    sizes = [len(plan) for plan in plans.values()]
    assert max(sizes) < 1.02 * min(sizes), "weights stay float16"


def test_a_wide_product_is_one_step_for_the_drift_finder(tmp_path):
    """Wherever the graph is cut, a product and its casts stay together, and take tensors from before them."""
    torch.manual_seed(0)
    module = SelfAttention(32, 2).half().eval()
    path = export_graph(module, spec_of("attention", (1, 8, 32), (1, 8, 32)), tmp_path)
    chain = Chain(path)
    assert all(tensor.dtype == "float16" for tensor in chain.tensors.values() if tensor.op == "MatMul")
    assert {tensor.summed for tensor in chain.tensors.values() if tensor.op == "MatMul"} == {32, 16, 8}
    products = [nodes for nodes in chain.operators if any(node.op_type == "MatMul" for node in nodes)]
    assert [[node.op_type for node in nodes] for nodes in products] == [["Cast", "Cast", "MatMul", "Cast"]] * 6
    for name, tensor in chain.tensors.items():
        part, graph = write_part(chain, [name], tmp_path, tensor.made)
        assert {row.name for row in graph.inputs} <= {"x", *chain.tensors}
        assert [node.name for node in onnx.load(part, load_external_data=False).graph.node] == [
            node.name for node in chain.operators[tensor.made]
        ]
