"""What TensorRT-RTX makes of a group of layers whose weights have four bits; nothing is executed, that takes a GPU."""

import re

import pytest
import torch
from helpers_language import tiny_decoder

from sttm_export.contracts.decoding import INT4_BYTES, decoder_graph
from sttm_export.contracts.target import find_target
from sttm_export.engines.build import EngineRequest, build_engine
from sttm_export.graphs.export import export_graph
from sttm_export.language.checkpoint import group_shapes, module_state
from sttm_export.language.decoder import DecoderGroup
from sttm_export.language.quantized import quantized
from sttm_export.quantization.int4_product import Int4Linear

bindings = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
SLOTS, CHUNK, LAYERS = 4096, 512, 2
SPEC = tiny_decoder(heads=8, kv_heads=2, head_dim=64, intermediate_size=1024)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The engine's bytes, its scratch memory, the weights it says that it holds, and how many parameters there are."""
    if not bindings.__version__.startswith("1.7."):
        pytest.skip("written down for TensorRT-RTX 1.7")
    folder, noise = tmp_path_factory.mktemp("engine"), torch.Generator().manual_seed(0)
    shapes = group_shapes(SPEC, 0, LAYERS)
    state = {name: 0.02 * torch.randn(*shape, generator=noise) for name, shape in shapes.items()}
    module = DecoderGroup(SPEC, 0, LAYERS, Int4Linear)
    module.load_state_dict(module_state(quantized(state)))
    graph = decoder_graph(SPEC, 0, LAYERS, SLOTS, CHUNK, "fp16")
    path = export_graph(module.half().eval(), graph, folder)
    result = build_engine(
        EngineRequest(path, find_target("rtx"), "sm86", row_counts=graph.row_counts), folder / "group.engine"
    )
    stored = re.search(r"Total Weights Memory: (\d+) bytes", "\n".join(result.log))
    parameters = sum(tensor.numel() for tensor in state.values())
    return (folder / "group.engine").read_bytes(), result.scratch, int(stored[1]), parameters


def test_weights_stay_in_four_bits_and_are_stored_once(built):
    """In float16 they would be two bytes each, and with a copy for each of three profiles six."""
    _, _, stored, parameters = built
    assert INT4_BYTES * parameters < stored < 1.5 * INT4_BYTES * parameters


def test_they_are_dequantized_inside_of_products_with_float32_sums(built):
    plan = built[0]
    assert b"int4_block_dq" in plan
    assert set(re.findall(rb"accumulation_type=(\d)", plan)) == {b"2"}
    assert b"Ampere_hmma_fp16_traits" not in plan


def test_attention_is_fused_as_with_float16_weights(built):
    plan, scratch, _, _ = built
    assert b"gemm_mha_v2" in plan
    assert 0 < scratch < SPEC.heads * CHUNK * SLOTS * 2
