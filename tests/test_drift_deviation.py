"""Errors of inner tensors: chunks give what the whole gives, and each rule does what it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm_export.drift import deviation
from sttm_export.drift.deviation import measure


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 40), width=st.integers(16, 40), seed=st.integers(0, 99), chunk=st.integers(1, 500))
def test_chunks_give_what_the_whole_gives(rows, width, seed, chunk):
    random = np.random.default_rng(seed)
    expected = random.standard_normal((rows, width))
    actual = expected * (1 + 0.01 * random.standard_normal((rows, width)))
    before, deviation._CHUNK_ELEMENTS = deviation._CHUNK_ELEMENTS, chunk
    try:
        found = measure(actual, expected, "float32")
    finally:
        deviation._CHUNK_ELEMENTS = before
    gaps, lengths = np.linalg.norm(actual - expected, axis=1), np.linalg.norm(expected, axis=1)
    typical = np.sqrt(np.square(expected).sum() / rows)
    assert found.worst_row == pytest.approx((gaps / np.maximum(lengths, typical)).max())
    assert found.overall == pytest.approx(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
    assert (found.low, found.high) == (expected.min(), expected.max())
    assert found.one_sided == found.other == found.expected_nonfinite == 0


@pytest.mark.parametrize(
    ("shape", "joined"),
    [((4, 32), (4, 32)), ((6, 5, 2), (1, 60)), ((6, 8, 2), (6, 16)), ((3,), (1, 3)), ((), (1, 1)), ((0, 16), (0, 16))],
)
def test_rule_1_short_rows_are_joined(shape, joined):
    assert deviation._row_shape(shape) == joined


def test_rule_2_a_row_that_cancels_is_held_against_the_typical_one():
    expected = np.ones((100, 16))
    expected[7] = 1e-6
    actual = expected.copy()
    actual[7] += 1e-6
    assert measure(actual, expected, "float32").worst_row == pytest.approx(1e-6, rel=0.01)
    actual[8] *= 1.5
    assert measure(actual, expected, "float32").worst_row == pytest.approx(0.5, rel=0.01)


def test_rule_3_infinities_that_both_sides_have():
    expected = np.array([[np.inf, -np.inf, np.nan, np.inf] + [1.0] * 12])
    assert measure(expected.copy(), expected, "float32").worst_row == 0
    actual = np.array([[np.inf, np.inf, np.inf, 1.0] + [1.0] * 12])
    found = measure(actual, expected, "float32")
    assert (found.other, found.one_sided, found.expected_nonfinite) == (2, 1, 4)
    assert (found.low, found.high) == (1.0, 1.0)


@pytest.mark.parametrize(("stored", "error"), [("float16", 0.0), ("float32", 1.0)])
def test_rule_4_half_of_the_fixed_spacing(stored, error):
    expected = np.full((1, 16), 2.0**-25)
    assert measure(np.zeros((1, 16)), expected, stored).worst_row == error


def test_an_error_where_nothing_should_be_is_infinite():
    assert measure(np.ones((2, 16)), np.zeros((2, 16)), "float32").overall == np.inf
    assert measure(np.zeros((2, 16)), np.zeros((2, 16)), "float32").overall == 0
