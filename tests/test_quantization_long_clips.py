"""Statistics of many frames and many clips: memory does not grow with them, and rows come from all over."""

import itertools

import numpy as np
import pytest
import torch

from sttm_export.quantization.points import Point
from sttm_export.quantization.statistics import CALLS, MOST_ROWS, ROWS, Collector, combine, combine_ordered

SIZE = 4
POINT = Point("0", ("0",), SIZE)


def seen(calls, rows=50, key="0" * 64, shift=0.0):
    """A row of call k holds k + 1 everywhere: where it came from can be read from it."""
    collector, most = Collector([POINT]), 0
    for call in range(calls):
        collector.take("0", torch.full((rows, SIZE), float(call + 1) + shift))
        most = max(most, len(collector._rows["0"]))
    return collector.finish(key), most


@pytest.mark.parametrize("calls", [1, 3, 8, 9, 16, 17, 100, 333])
def test_rows_of_a_long_clip_are_spread_over_it(calls):
    statistics, most = seen(calls)
    row = statistics.points["0"]
    assert most <= CALLS
    assert row.counts.sum() == calls * 50 * SIZE
    assert row.largest.tolist() == [calls] * SIZE
    kept = row.floats()[:, 0].numpy()
    assert len(kept) <= ROWS
    assert (np.diff(kept) >= 0).all()
    # From the first call, and with no gap wider than a quarter of the clip.
    assert kept[0] == 1
    gaps = np.diff([*np.unique(kept), calls + 1])
    assert gaps.max() <= max(1, calls / 3)


def test_one_by_one_is_as_all_at_once_in_any_order():
    clips = [seen(3, key=str(place) * 64, shift=place / 8)[0] for place in range(4)]
    whole = combine(clips)
    streamed = combine_ordered((clip for clip in clips), len(clips))
    for order in [*itertools.islice(itertools.permutations(clips), 0, 24, 5), None]:
        made = combine(list(order)) if order else streamed
        assert made.keys == whole.keys == tuple(str(place) * 64 for place in range(4))
        for name, value in vars(made.points["0"]).items():
            assert np.array_equal(value, vars(whole.points["0"])[name]), name
    assert len(whole.points["0"].rows) <= MOST_ROWS


def test_channels_that_are_counted_together_do_not_overflow():
    collector = Collector([POINT])
    collector._counts["0"][:] = 2**31 - 10
    collector.take("0", torch.ones(50, SIZE))
    row = combine([collector.finish("0" * 64), collector.finish("1" * 64)]).points["0"]
    assert row.counts.max() == 2 * (2**31 - 10 + 200)
