"""Prefill without merging through graphs that are made for merged tokens, and numbers that follow from times."""

from itertools import pairwise

import numpy as np
import pytest
from helpers_timing import figure, times
from helpers_trt import SUMS, write_sums

from sttm_export.bundle.opened import open_bundle
from sttm_export.contracts.decoding import decoder_graph
from sttm_export.language.positions import Prompt, cells_of
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.timing.decoder import (
    ABOVE,
    ALL,
    BELOW,
    DECODE,
    FIRST,
    HEADING,
    MERGED,
    compute_decoder,
    unmerged,
)
from sttm_export.timing.inputs import back_and_forth, rgb_of
from sttm_export.timing.live import panned
from sttm_export.timing.proxies import Around, Laps, Roomy, Timed


class Noting:
    """A group of layers of so many slots that notes which ones it is given."""

    def __init__(self, spec, slots):
        self.graph, self.calls = decoder_graph(spec, 0, 1, slots, 8, "fp32"), []

    def run(self, inputs):
        self.calls.append(inputs["slots"].tolist())
        return {"hidden_out": inputs["hidden"]}


@pytest.fixture
def spec(language_bundle):
    return open_bundle(language_bundle, verify=False).manifest.recipe.decoder


def slots(first, count):
    return {"hidden": np.zeros((count, 1)), "slots": np.arange(first, first + count, dtype=np.int32)}


def test_rows_beyond_the_buffer_are_written_again_from_its_front(spec):
    session = Noting(spec, 20)
    roomy = Roomy(session, 500)
    assert roomy.graph.kept[0].shape[1] == 500
    assert [tensor.shape for tensor in roomy.graph.fed] == [tensor.shape for tensor in session.graph.fed]
    for first in (0, 8, 16, 24, 400):
        roomy.run(slots(first, 8))
    for first in (19, 20, 499):
        roomy.run(slots(first, 1))
    assert all(call == list(range(call[0], call[0] + len(call))) for call in session.calls)
    assert [len(call) for call in session.calls] == [8] * 5 + [1] * 3
    assert all(call[0] >= 0 and call[-1] < 20 for call in session.calls), "no row is dropped, which would be less work"
    assert session.calls[0] == list(range(8))


def test_a_buffer_shorter_than_a_chunk_is_written_from_its_front(spec):
    session = Noting(spec, 5)
    Roomy(session, 500).run(slots(24, 8))
    assert session.calls == [list(range(8))]


def test_every_cell_is_a_token_where_nothing_merges():
    hidden = np.arange(2 * 6 * 4, dtype=np.float32).reshape(2, 6, 4)
    found = unmerged(hidden, width=3)
    np.testing.assert_array_equal(found.tokens, hidden.reshape(12, 4))
    np.testing.assert_array_equal(cells_of(found.token_box, Prompt(5, 2, 2, 3, 1)), np.arange(12))
    assert (found.num_tokens, found.share, found.token_patches.sum()) == (12, 1.0, 12)


def test_a_proxy_does_what_the_session_does(tmp_path):
    laps, session = Laps(), OrtSession(write_sums(tmp_path), SUMS)
    timed = Timed(Around(session), laps, "sums")
    rows = {"x": np.ones((1, 3), np.float32)}
    for _ in range(2):
        timed.run(rows)
    assert timed.state()["total"].tolist() == [[2.0, 2.0, 2.0]]
    timed.restore({"total": np.full((1, 3), 5, np.float16)})
    assert timed.run(rows)["y"].tolist() == [[6.0, 6.0, 6.0]]
    timed.reset()
    assert timed.run(rows)["y"].tolist() == [[1.0, 1.0, 1.0]]
    assert (timed.backend, timed.graph) == (session.backend, SUMS)
    assert set(laps.take()) == {"sums"}
    assert laps.take() == {}


def figures(above=60.0):
    parts = {BELOW: times(20.0), ABOVE: times(above), HEADING: times(1.0)}
    return [
        figure(FIRST, 50.0, MERGED, parts=parts),
        figure(FIRST, 85.0, ALL, parts=parts),
        figure(DECODE, 8.0, parts={BELOW: times(2.0), ABOVE: times(4.0), HEADING: times(1.0)}),
    ]


def test_full_buffers_are_computed_from_layers_that_have_them(language_bundle):
    """Two of three layers lie below: the third takes half of their time, in place of its own."""
    bundle = open_bundle(language_bundle, verify=False)
    found = {row.name: row.value for row in compute_decoder(bundle, figures())}
    assert found == pytest.approx(
        {
            "first token, of all tokens": 100 * 50 / 85,
            "first token, all tokens, full buffers": 85 - 60 + 10,
            "first token, of that": 100 * 50 / 35,
            "decode, full buffers": 8 - 4 + 1,
        },
        rel=1e-4,
    )


def test_frames_of_pixel_values_are_those_that_they_were_made_of(language_bundle):
    from sttm_export.runtime.preprocess import pixel_values

    pixels = open_bundle(language_bundle, verify=False).model.pixels
    frames = np.random.default_rng(0).integers(0, 256, (2, pixels.height, pixels.width, 3)).astype(np.uint8)
    np.testing.assert_array_equal(rgb_of(pixel_values(frames, pixels).astype(np.float16), pixels), frames)


@pytest.mark.parametrize(("most", "order"), [(3, [0, 1, 2, 1, 0, 1, 2]), (2, [0, 1, 0, 1, 0, 1, 0]), (1, [0] * 7)])
def test_frames_are_played_forth_and_back(most, order):
    assert list(back_and_forth(7, most)) == order


def test_a_pan_has_no_two_frames_alike():
    frames = [np.random.default_rng(0).integers(0, 256, (4, 9, 3)).astype(np.uint8)]
    moving = panned(frames)
    seen = [frames[0], *(next(moving) for _ in range(40))]
    assert all(not np.array_equal(one, other) for one, other in pairwise(seen))
    assert not any(np.array_equal(frame, frames[0]) for frame in seen[1:])
