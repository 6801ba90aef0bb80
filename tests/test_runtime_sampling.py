from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttm_export.errors import UserError
from sttm_export.runtime.sampling import published, uniform


def test_one_frame_a_second_and_the_last():
    assert published(132, 25, 1.0, 128) == [0, 25, 50, 75, 100, 125, 131]


def test_the_last_frame_is_not_taken_twice():
    assert published(101, 25, 1.0, 128) == [0, 25, 50, 75, 100]


def test_ntsc_rate_rounds_up():
    assert published(120, Fraction(30000, 1001), 1.0, 128) == [0, 30, 60, 90, 119]


def test_a_float_rate_counts_as_the_fraction_it_came_from():
    assert published(4000, 30000 / 1001, 1.0, 999) == published(4000, Fraction(30000, 1001), 1.0, 999)
    # 1001 s hold exactly 30000 frames; a float product lands a hair above or below.
    assert 30000 in published(30002, 30000 / 1001, 1 / 1001, 999)


def test_more_than_the_bound_is_spread_evenly():
    assert published(10_000, 25, 1.0, 128) == np.linspace(0, 9999, 128).astype(int).tolist()


def test_exactly_the_bound_stays():
    assert len(published(25 * 127 + 1, 25, 1.0, 128)) == 128
    assert published(25 * 127 + 1, 25, 1.0, 128)[1] == 25


def test_slow_video_takes_each_frame_once():
    assert published(5, 1, 2.0, 128) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("total", "count", "expected"), [(1, 8, [0]), (5, 1, [0]), (3, 3, [0, 1, 2]), (7, 3, [0, 3, 6])]
)
def test_uniform(total, count, expected):
    assert uniform(total, count) == expected


@given(st.integers(2, 50_000), st.integers(2, 300))
def test_uniform_is_truncated_linspace(total, count):
    got = uniform(total, count)
    exact = [int(Fraction(k * (total - 1), count - 1)) for k in range(count)] if total > count else list(range(total))
    assert got == exact
    assert got[0] == 0
    assert got[-1] == total - 1


@given(st.integers(1, 5000), st.floats(0.5, 240), st.floats(0.1, 8), st.integers(1, 256))
def test_published_is_ascending_within_the_clip_and_bounded(total, rate, fps, bound):
    got = published(total, rate, fps, bound)
    assert got == sorted(got)
    assert got[0] >= 0
    assert got[-1] < total
    assert 1 <= len(got) <= bound


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform(0, 4), "has none"),
        (lambda: uniform(4, 0), "at least 1"),
        (lambda: published(4, 0, 1, 4), "above zero"),
        (lambda: published(4, 25, -1, 4), "above zero"),
    ],
)
def test_errors(call, message):
    with pytest.raises(UserError, match=message):
        call()
