"""The oracle of the language model against the published forwards, prefill and decode."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_language import CASES, load_case

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.errors import UserError
from sttm_export.language.positions import Prompt, next_position, prompt_positions
from sttm_export.language.reference import ReferenceDecoder, ReferenceGroup, reference_head
from sttm_export.language.rotary import rotary_tables

# Float32 sums of up to 96 terms in 4 layers; logits are of size 1, and the best token leads by 0.03 at least.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", CASES)
def test_positions_are_the_published_ones(name):
    case = load_case(name)
    made = prompt_positions(case.prompt, case.merging.policy)
    assert np.array_equal(made, case.arrays["prompt_positions"].reshape(made.shape))
    assert next_position(made) == case.arrays["decode_positions"][0]


@pytest.mark.parametrize("name", CASES)
def test_prefill_and_decode_are_the_published_ones(name):
    case = load_case(name)
    decoder = ReferenceDecoder(case.spec, case.state)
    ids = case.arrays
    found = decoder.prefill(ids["system_ids"], case.video, ids["question_ids"], case.prompt, case.merging)
    assert np.array_equal(found.boxes.numpy(), ids["tyxyx"])
    assert np.abs(found.tokens.numpy() - ids["merged_tokens"]).max() < TOLERANCE
    assert decoder.key_lengths() == ids["key_lengths"].tolist()
    logits = [found.logits]
    for number, position in enumerate(ids["decode_positions"]):
        assert found.position + number == position
        logits.append(decoder.step(int(logits[-1].argmax()), int(position)))
    assert [int(row.argmax()) for row in logits] == ids["generated_ids"].tolist()
    assert max(np.abs(row.numpy() - want).max() for row, want in zip(logits, ids["logits"], strict=True)) < TOLERANCE


def test_a_wrong_position_after_merging_shows():
    """The published runs number decoded tokens as if nothing had merged; closing the gap gives other logits."""
    case = load_case("qwen2_layer2_8x14x14")
    decoder = ReferenceDecoder(case.spec, case.state)
    ids = case.arrays
    found = decoder.prefill(ids["system_ids"], case.video, ids["question_ids"], case.prompt, case.merging)
    closed = int(ids["key_lengths"][-1])
    assert closed < found.position
    second = decoder.step(int(found.logits.argmax()), closed)
    assert np.abs(second.numpy() - ids["logits"][1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize(("policy", "merges"), [("budget", True), ("threshold", False)])
def test_a_threshold_of_zero_or_less_merges_where_it_was_solved(policy, merges):
    """Rule 8.6: only as a given threshold does it skip the temporal step."""
    case = load_case("qwen2_layer2_8x14x14")
    merge = replace(case.merging.merge, policy=policy)
    merging = replace(case.merging, merge=merge, thresholds=(2.0, -1.0))
    decoder, ids = ReferenceDecoder(case.spec, case.state), case.arrays
    found = decoder.prefill(ids["system_ids"], case.video, ids["question_ids"], case.prompt, merging)
    assert len(found.boxes) == merge.cells * (1 if merges else merge.frames)


def test_groups_and_head_chained_are_the_whole_reference():
    """The prompt in two chunks, then a token, through buffers that hold noise where nothing was written."""
    case = load_case("qwen2_layer2_8x14x14")
    spec, ids = case.spec, case.arrays["question_ids"]
    whole = ReferenceDecoder(spec, case.state)
    nothing = torch.empty(0, spec.hidden_size)
    prompt = Prompt(0, 0, 1, 1, len(ids))
    expected = [whole.prefill(ids[:0], nothing, ids, prompt, replace(case.merging, layer=-1)).logits]
    expected.append(whole.step(7, len(ids)))
    groups = [ReferenceGroup(spec, case.state, *layers) for layers in ((0, 1), (1, 4))]
    noise = torch.Generator().manual_seed(1)
    shape = (spec.kv_heads, len(ids) + 3, spec.head_dim)
    buffers = [[torch.randn(shape, generator=noise) for _ in range(2 * count)] for count in (1, 3)]
    untouched = [[buffer[:, len(ids) + 1 :].clone() for buffer in of] for of in buffers]
    logits, chunks = [], ((0, 3), (3, len(ids)), (len(ids), len(ids) + 1))
    for first, last in chunks:
        hidden = case.state["language.embed.weight"][[*ids, 7]][first:last]
        tables = [torch.from_numpy(table) for table in rotary_tables(spec, np.arange(first, last)[None])]
        for index, group in enumerate(groups):
            hidden, *buffers[index] = group(
                hidden, *tables, torch.arange(first, last, dtype=torch.int32), *buffers[index]
            )
        logits.append(reference_head(spec, case.state)(hidden[-1:])[0])
    assert max((made - want).abs().max() for made, want in zip(logits[1:], expected, strict=True)) < TOLERANCE
    for of, before in zip(buffers, untouched, strict=True):
        assert all(torch.equal(new[:, len(ids) + 1 :], old) for new, old in zip(of, before, strict=True))


def test_rotary_tables_are_those_of_transformers():
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Config, Qwen2RotaryEmbedding

    spec = load_case(CASES[0]).spec
    config = Qwen2Config(
        hidden_size=spec.hidden_size,
        num_attention_heads=spec.heads,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
    )
    positions = np.array([[0, 1, 17, 1000]])
    theirs = Qwen2RotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions))
    for mine, other in zip(rotary_tables(spec, positions), theirs, strict=True):
        # Theirs are products of float32 numbers: at position 1000 an angle is good to 6e-5.
        assert np.abs(mine - other[0].numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"head_dim": 15}, "head_dim is odd"),
        ({"kv_heads": 3}, "heads is not a multiple of kv_heads"),
        ({"mrope_section": (2, 3, 4)}, "does not add up to half of a head's 16 channels"),
        ({"mrope_section": (4, 4)}, "must have three numbers"),
    ],
)
def test_what_no_decoder_can_be(changes, fault):
    sizes = vars(load_case(CASES[0]).spec) | changes
    with pytest.raises(UserError, match=fault):
        DecoderSpec(**sizes)
