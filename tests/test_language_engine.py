"""What TensorRT-RTX makes of a group of decoder layers with two profiles; nothing is executed, that takes a GPU."""

import re
from dataclasses import dataclass

import pytest
import torch
from helpers_language import tiny_decoder

from sttm_export.contracts.decoding import decoder_graph
from sttm_export.contracts.target import find_target
from sttm_export.engines.build import EngineRequest, build_engine
from sttm_export.graphs.export import export_graph
from sttm_export.language.decoder import DecoderGroup

bindings = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
SLOTS, CHUNK, LAYERS = 4096, 512, 2
SPEC = tiny_decoder(heads=8, kv_heads=2, head_dim=64, intermediate_size=1024)


@dataclass(frozen=True)
class Built:
    """An engine, what it holds and needs, and the float16 weights it was made of; sizes in bytes."""

    plan: bytes
    scratch: int
    stored: int
    weights: int


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    if not bindings.__version__.startswith("1.7."):
        pytest.skip("written down for TensorRT-RTX 1.7")
    folder = tmp_path_factory.mktemp("engine")
    torch.manual_seed(0)
    module = DecoderGroup(SPEC, 0, LAYERS)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    graph = decoder_graph(SPEC, 0, LAYERS, SLOTS, CHUNK, "fp16")
    path = export_graph(module.half().eval(), graph, folder)
    request = EngineRequest(path, find_target("rtx"), "sm86", row_counts=graph.row_counts)
    result = build_engine(request, folder / "group.engine")
    weights = sum(parameter.nbytes for parameter in module.parameters())
    stored = re.search(r"Total Weights Memory: (\d+) bytes", "\n".join(result.log))
    return Built((folder / "group.engine").read_bytes(), result.scratch, int(stored[1]), weights)


def test_two_profiles_share_the_weights(built):
    """With query, key and value apart, or gate and up, each profile has them in an order of its own."""
    assert built.weights < built.stored < 1.01 * built.weights


def test_every_product_is_of_float16_factors_and_float32_sums(built):
    """A Gemm with a float32 bias inside would be one of float32 weights, at twice the memory."""
    assert set(re.findall(rb"accumulation_type=(\d)", built.plan)) == {b"2"}
    assert b"Ampere_hmma_fp16_traits" not in built.plan


def test_attention_is_fused(built):
    """Scores of a chunk over all slots are never in memory, not even in float16."""
    assert b"gemm_mha_v2" in built.plan
    scores = SPEC.heads * CHUNK * SLOTS * 2
    assert 0 < built.scratch < scores
