"""The static graphs of random decoders in ONNX Runtime against the oracle: answers, decisions, reuse, chunks, errors.

The oracle is `transformers`' own layers with the published merging, dynamic in every shape. Seeds are chosen so that no
processor decides otherwise: similarities keep two hundred times the rounding band from their thresholds, and the best
token leads by thirty tolerances.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
from helpers_decoders import Exported, answer, exported_merger
from helpers_pipeline import (
    CHUNK,
    KINDS,
    LAYERS,
    MERGES,
    POLICY,
    SLOTS,
    SPANS,
    SPECS,
    STEPS,
    Pipeline,
    T,
    given,
    handed,
    head_of,
    layers_swapped,
    left,
    seeing,
    static_group,
    without,
)
from helpers_trace import compare_answers

from sttm_export.errors import UserError
from sttm_export.language import model as model_module
from sttm_export.language import rows as rows_module
from sttm_export.language.positions import merged_positions, next_position
from sttm_export.language.rotary import rotary_tables
from sttm_export.merging.outputs import reference_outputs
from sttm_export.merging.reference import merge
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.pipeline import merger_inputs
from sttm_export.validation.decisions import compare_decisions
from sttm_export.validation.gates import derive_tolerance

# Of a row of logits, relative to its size: what the gates of an export allow for five layers and a head, whose longest
# sums are those of attention over a buffer. Measured: 9.3e-7 at most, of 3.0e-6.
TOLERANCE = derive_tolerance(store="float32", length=SLOTS, layers=6).relative
# Least distance of thresholds to similarities; the rounding band is 1.7e-6.
CLEAR = 5e-5


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The graphs of a decoder, exported once."""

    @functools.cache
    def export(family):
        return Exported.of(SPECS[family], 3, SPANS[family], tmp_path_factory.mktemp(family), SLOTS, CHUNK)

    return export


@pytest.fixture(scope="module")
def mergers(tmp_path_factory):
    """The session of a token merger, which keeps nothing and so is shared."""

    @functools.cache
    def export(name):
        return OrtSession(*exported_merger(MERGES[name], tmp_path_factory.mktemp(name)), threads=1)

    return export


@pytest.fixture
def pipeline(exported, mergers):
    """Makes a model whose sessions are its own, and wrapped."""

    def build(family, layer, kind, **changes):
        return Pipeline(exported(family), mergers(KINDS[kind][0]), POLICY[family], layer, kind, **changes)

    return build


def distance(made, expected):
    """Of two rows of logits, relative to the second's size."""
    return float(np.linalg.norm(made - expected) / np.linalg.norm(expected))


def steps_that_agree(decoder, found, tokens, logits):
    """Hold an answer against the reference step by step.

    Returns:
        Steps that were compared: fewer than there are where the best two tokens were a tie within rounding, because
        behind it either text is right.
    """
    expected = found.logits.numpy()
    for step, (token, row) in enumerate(zip(tokens, logits, strict=True)):
        assert distance(row, expected) <= TOLERANCE, f"step {step}"
        second, best = np.sort(expected)[-2:]
        if best - second <= 2 * TOLERANCE * np.linalg.norm(expected):
            return step
        assert token == int(expected.argmax()), f"step {step}"
        if step + 1 < len(tokens):
            expected = decoder.step(token, found.position + step).numpy()
    return len(tokens)


def assert_decisions_agree(run, told, found):
    """The graph's decisions, on the static hidden states, against the reference's on its own."""
    frames, outputs = len(told.video), run.merger.calls[-1][1]
    hidden = found.video.numpy().reshape(told.video.shape)
    inputs = merger_inputs(run.merger.graph, hidden, frames, *run.thresholds)
    step = True if run.merge.policy == "budget" else None
    expected = reference_outputs(run.merge, inputs, run.merging.thresholds, step)
    assert np.array_equal(expected["token_box"][: len(found.boxes)], found.boxes.numpy())
    report = compare_decisions(hidden, run.merge, expected, outputs, frames)
    assert report.passed, report.reason
    return report


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "layer"), LAYERS)
def test_answers_are_those_of_the_reference(pipeline, family, layer, kind):
    """A whole clip, a short one and a single frame."""
    run = pipeline(family, layer, kind)
    for frames, most in ((T, STEPS + 1), (T - 1, 5), (1, 5)):
        told = run.asked(frames, seed=10 * layer + frames)
        tokens, logits = run.run(told, most)
        decoder, found = run.reference(told)
        report = assert_decisions_agree(run, told, found)
        assert float(run.merger.calls[-1][1]["threshold_margins"].min()) > CLEAR, "choose another seed"
        assert report.cells_differing == 0
        kept, whole = report.num_tokens[0], told.prompt.video
        assert kept == whole if kind == "whole" else 0 < kept < whole or frames == 1
        _, y0, x0, y1, x1 = found.boxes.T
        assert kind != "threshold" or int(((y1 - y0) * (x1 - x0)).max()) > 1, "nothing merges inside of frames"
        text = len(told.system) + len(told.question)
        assert decoder.key_lengths() == [text + (whole if i < layer else kept) for i in range(told.spec.layers)]
        assert steps_that_agree(decoder, found, tokens, logits) == most, "choose another seed"


@pytest.mark.parametrize(("family", "layer"), LAYERS)
def test_every_part_is_that_of_the_reference(pipeline, family, layer):
    """The same, part by part: what the planted errors below are told from. Some text is read with the video."""
    for kind, frames, behind in (("budget", T, 0), ("threshold", 2, 3), ("whole", 1, 8)):
        run = pipeline(family, layer, kind)
        told = run.asked(frames, seed=layer)
        tokens, _ = run.run(told, 6, behind)
        assert compare_answers(run.trace(tokens), replace(told, merging=run.merging)) is None


def test_a_decision_at_its_threshold_is_a_tie_and_no_error(pipeline):
    """Thresholds that are similarities of the reference's hidden states: the last bits decide, which is excused."""
    run = pipeline("plain", 2, "threshold")
    told = run.asked(T, seed=5)
    _, found = run.reference(told)
    hidden = found.video.reshape(T, run.merge.height, run.merge.width, -1).permute(0, 3, 1, 2)
    pairs = merge(hidden, 0.85, 0.8, root_level=run.merge.root_level, head_dim=run.merge.head_dim).similarities
    for threshold in pairs[pairs > 0.5][::5].tolist():
        run.thresholds = (0.85, threshold)
        run.model.watch(told.system, told.video)
        assert_decisions_agree(run, told, run.reference(told)[1])


def test_to_the_last_slot(pipeline):
    """Question and answer fill the buffers; rows of the last chunk that are padding lie past their end."""
    run = pipeline("mrope", 2, "whole")
    room = SLOTS - 7 - T * run.merge.cells
    told = run.asked(T, seed=1, question=room - 9)
    tokens, logits = run.run(told, 10)
    decoder, found = run.reference(told)
    assert steps_that_agree(decoder, found, tokens, logits) == 10
    assert decoder.key_lengths() == [SLOTS] * told.spec.layers
    with pytest.raises(UserError, match=f"need {room + 1} slots"):
        answer(run.model, told.question, 11)


# Against a prefill of its own, an answer over kept keys and values differs by rounding at most. (Where the same graphs
# get the same chunks, as here, not even by that: sums are in the same order. But no runtime promises so much.)
@pytest.mark.parametrize(("family", "layer", "kind"), [("plain", 1, "budget"), ("mrope", 2, "threshold")])
def test_questions_in_turn_are_answered_as_if_each_were_the_first(pipeline, family, layer, kind):
    """Short, long and middling, in two orders: a long question leaves slots behind that a short one must not see."""
    kept, fresh = pipeline(family, layer, kind), pipeline(family, layer, kind)
    asked = [kept.asked(T, seed=3, question=count) for count in (3, 40, 11)]
    asked = [replace(told, system=asked[0].system, video=asked[0].video) for told in asked]
    watched = kept.model.watch(asked[0].system, asked[0].video)
    state = kept.model.state()
    expected = [fresh.run(told, 12) for told in asked]
    for order in ((0, 1, 2), (1, 0, 2)):
        for number in order:
            assert_same_answer(answer(kept.model, asked[number].question, 12), expected[number])
    second = pipeline(family, layer, kind)
    second.model.restore(watched, state)
    for number in (1, 0, 2):
        assert_same_answer(answer(second.model, asked[number].question, 12), expected[number])
        decoder, found = fresh.reference(asked[number])
        assert steps_that_agree(decoder, found, *expected[number]) == 12


def assert_same_answer(made, expected):
    assert made[0] == expected[0]
    assert max(map(distance, made[1], expected[1])) <= TOLERANCE


def test_chunks_of_any_size_give_the_same_answer(pipeline):
    """Row by row, in parts, in one call, and in a call of more rows than the buffers have slots."""
    expected = None
    for chunk in (CHUNK, 1, 16, 180, 2 * SLOTS):
        run = pipeline("plain", 1, "budget", chunk=chunk)
        told = run.asked(T, seed=2, question=21)
        made = run.run(told, 8)
        sizes = {len(inputs["hidden"]) for inputs, _ in run.groups[0].calls}
        assert sizes == {chunk, 1}
        assert_same_answer(made, expected := expected or made)
        assert compare_answers(run.trace(made[0]), replace(told, merging=run.merging)) is None


SPEC, DEEP = SPECS["mrope"], "language.layers.2."
TABLES = ("cos", "sin")
# In layer 2, or 3 and 4, of the M-RoPE decoder, which merges at layer 2: where it is planted, what, and the part, the
# tensor and the first row that must be named. The first row has position 0 and turns by nothing.
PARTS = {
    "nothing": (2, static_group, None),
    "rotary: angles of the row before": (
        2,
        lambda *_: given(lambda call: {name: np.roll(call[name], 1, 0) for name in TABLES}),
        ("decoder_02_02", "keys_2", 0),
    ),
    "rotary: neighbours turn, not halves": (
        2,
        lambda *_: given(lambda call: {name: np.repeat(call[name][:, :6], 2, 1) for name in TABLES}),
        ("decoder_02_02", "keys_2", 1),
    ),
    "rotary: the other way round": (
        2,
        lambda *_: given(lambda call: {"sin": -call["sin"]}),
        ("decoder_02_02", "keys_2", 1),
    ),
    "mask: one slot too many": (2, lambda *of: seeing(*of, 1), ("decoder_02_02", "hidden_out", 0)),
    "mask: one slot too few": (2, lambda *of: seeing(*of, -1), ("decoder_02_02", "hidden_out", 1)),
    "norm: another eps": (
        2,
        lambda spec, state: static_group(replace(spec, rms_norm_eps=1e-6), state),
        ("decoder_02_02", "keys_2", 0),
    ),
    "norm: no weight before attention": (
        2,
        lambda spec, state: static_group(spec, without(state, f"{DEEP}input_layernorm.weight")),
        ("decoder_02_02", "keys_2", 0),
    ),
    "norm: no weight before the MLP": (
        2,
        lambda spec, state: static_group(spec, without(state, f"{DEEP}post_attention_layernorm.weight")),
        ("decoder_02_02", "hidden_out", 0),
    ),
    "slots: decoded tokens one too far": (
        2,
        lambda *_: given(lambda call: {"slots": call["slots"] + (len(call["slots"]) == 1)}),
        ("decoder_02_02", "keys_2", 7 + 56 + 9),
    ),
    "slots: handed over one too far": (
        0,
        lambda *_: handed(lambda call: {"slots": call["slots"] + (len(call["slots"]) == 1)}),
        ("decoder_00_01", "slots", 7 + 140 + 9),
    ),
    "keys and values of two layers": (3, lambda *_: left(layers_swapped), ("decoder_03_04", "keys_3", 0)),
    "norm: no weight before the head": (
        "head",
        lambda spec, state: head_of(spec, without(state, "language.norm.weight")),
        ("language_head", "logits", 0),
    ),
}


@pytest.mark.parametrize("error", PARTS)
def test_an_error_in_a_part_is_found_there(pipeline, exported, error):
    where, plant, expected = PARTS[error]
    run = pipeline("mrope", 2, "budget", plants={where: plant(SPEC, exported("mrope").state)})
    assert_found(run, expected)


def assert_found(run, expected):
    """An answer departs from the reference at this part, tensor and first row, and is said to."""
    told = run.asked(T, seed=4)
    tokens, _ = run.run(told, 6)
    departure = compare_answers(run.trace(tokens), replace(told, merging=run.merging))
    if expected is None:
        assert departure is None
        return
    assert departure is not None, "not found"
    assert (departure.part, departure.tensor, departure.rows[0]) == expected, departure
    assert str(departure).startswith(f"{expected[0]}: {expected[1]} departs in rows {expected[2]} to ")


def kept_positions(whole, prompt, representatives, _):
    """Nothing is assigned anew."""
    return merged_positions(whole, prompt, representatives, "representative")


def shifted_positions(whole, prompt, representatives, policy):
    """Merged tokens stand one further than their representatives do."""
    made = merged_positions(whole, prompt, representatives, policy).copy()
    made[:, prompt.system : prompt.system + len(representatives)] += 1
    return made


def test_positions_that_are_not_assigned_anew_are_found(pipeline, monkeypatch):
    monkeypatch.setattr(model_module, "merged_positions", kept_positions)
    # The first nine cells of the video are kept, so that they stand where they stood.
    assert_found(pipeline("plain", 2, "budget"), ("decoder_02_03", "cos", 7 + 9))


def test_positions_beside_their_representatives_are_found(pipeline, monkeypatch):
    monkeypatch.setattr(model_module, "merged_positions", shifted_positions)
    assert_found(pipeline("mrope", 2, "budget"), ("decoder_02_02", "cos", 7))


def test_tables_of_the_next_position_are_found(pipeline, monkeypatch):
    monkeypatch.setattr(rows_module, "rotary_tables", lambda spec, positions: rotary_tables(spec, positions + 1))
    assert_found(pipeline("plain", 1, "budget"), ("decoder_00_00", "cos", 0))


def test_decoded_tokens_that_close_the_gap_are_found(pipeline, monkeypatch):
    monkeypatch.setattr(model_module, "next_position", lambda whole: next_position(whole) - 84)
    assert_found(pipeline("plain", 1, "budget"), ("decoder_00_00", "cos", 7 + 140 + 9))


def test_another_threshold_is_found(pipeline):
    plant = given(lambda call: {"temporal_threshold": np.array(0.82, np.float32)})
    assert_found(pipeline("plain", 1, "threshold", plants={"merger": plant}), ("token_merger", "assignment", 0))


@pytest.mark.parametrize(
    ("split", "expected"),
    [(1, ("decoder_01_01", "hidden", 7 + 56 + 9 + 5)), (4, ("token_merger", "features", 0))],
    ids=["too early", "too late"],
)
def test_another_merge_layer_is_found(pipeline, split, expected):
    family = "plain" if split == 1 else "mrope"
    assert_found(pipeline(family, 2, "budget", split=split), expected)
