"""How far an inner tensor of a graph is from what it should be, whatever it holds: scores, masks, moments, infinities.

`metrics.py` judges features and tokens, whose rows are vectors that mean something. Inner tensors need more care:

1. Rows of fewer than 16 elements are joined: one number that happens to come out near zero has no relative accuracy.
2. A row is held against its own length or the typical row's, whichever is longer: an operator rounds relative to what
   it adds up, not to what is left when that cancels.
3. Infinities and NaN that both sides have are no error, and do not hide the rest of their row.
4. Float16 has a fixed spacing of 2^-24 below 2^-14: a difference of half of it is what rounding leaves at best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Doubles = NDArray[np.float64]
_CHUNK_ELEMENTS = 1 << 18
_SHORT_ROW = 16
_HALF_SPACING = 2.0**-25 * 1.01


@dataclass(frozen=True)
class Deviation:
    """Errors of one tensor, and what it should have held.

    Attributes:
        worst_row: largest relative error of a row (rules 1 and 2).
        overall: norm of the whole difference over the norm of the expected tensor.
        one_sided: elements that are NaN or Inf on one side only; left out of both errors.
        other: elements that are another infinity, or NaN instead of an infinity.
        expected_nonfinite: NaN and infinities that belong there.
        low: least finite value expected; 0 where there is none.
        high: largest finite value expected.
    """

    worst_row: float
    overall: float
    one_sided: int
    other: int
    expected_nonfinite: int
    low: float
    high: float


def measure(actual: Array, expected: Array, stored: str) -> Deviation:
    """Measure one float tensor, in chunks of rows and in float64.

    Args:
        actual: any float dtype.
        expected: the same shape.
        stored: format that `actual` was rounded to, for rule 4.
    """
    shape = _row_shape(actual.shape)
    left, right = actual.reshape(shape), expected.reshape(shape)
    finite = np.isfinite(right)
    square = sum(float(np.square(e).sum()) for _, e, _ in _chunks(left, right))
    typical = math.sqrt(square / max(1, shape[0]))
    worst, error, one_sided, other = 0.0, 0.0, 0, 0
    for a, e, (sides, kinds) in _chunks(left, right):
        one_sided, other = one_sided + sides, other + kinds
        gap = a - e
        if stored == "float16":
            gap[np.abs(gap) <= _HALF_SPACING] = 0.0
        squares = np.square(gap).sum(1)
        error += float(squares.sum())
        lengths = np.maximum(np.linalg.norm(e, axis=1), typical)
        worst = max(worst, float(_ratio(np.sqrt(squares), lengths).max(initial=0.0)))
    kept = right[finite]
    low, high = (float(kept.min()), float(kept.max())) if kept.size else (0.0, 0.0)
    overall = float(_ratio(np.array(math.sqrt(error)), np.array(math.sqrt(square))))
    missing = int(right.size - np.count_nonzero(finite))
    return Deviation(worst, overall, one_sided, other, missing, low, high)


def _chunks(left: Array, right: Array) -> Iterator[tuple[Doubles, Doubles, tuple[int, int]]]:
    """Rows as float64 with what is not finite set to zero, and how many elements rules out: one-sided, other kinds."""
    step = max(1, _CHUNK_ELEMENTS // left.shape[1])
    for start in range(0, len(left), step):
        a, e = (side[start : start + step].astype(np.float64) for side in (left, right))
        bad_a, bad_e = ~np.isfinite(a), ~np.isfinite(e)
        both = bad_a & bad_e
        same = (a == e) | (np.isnan(a) & np.isnan(e))
        counts = int(np.count_nonzero(bad_a != bad_e)), int(np.count_nonzero(both & ~same))
        either = bad_a | bad_e
        a[either] = e[either] = 0.0
        yield a, e, counts


def _ratio(errors: Doubles, lengths: Doubles) -> Doubles:
    """Errors over lengths; an error where nothing should be is infinite."""
    nothing = np.where(errors > 0, np.inf, 0.0)
    return np.where(lengths > 0, errors / np.where(lengths > 0, lengths, 1.0), nothing)


def _row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rule 1: join trailing dimensions until a row has 16 elements, or is the whole tensor."""
    width = 1
    for size in reversed(shape):
        width *= size
        if width >= _SHORT_ROW:
            break
    return math.prod(shape) // max(1, width), max(1, width)
