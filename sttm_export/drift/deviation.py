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
    """Errors of one tensor, and what it should have held."""

    worst_row: float  # largest relative error of a row (rules 1 and 2)
    overall: float  # norm of the whole difference over the norm of the expected tensor
    one_sided: int  # elements that are NaN or Inf on one side only; left out of both errors
    other: int  # elements that are another infinity, or NaN instead of an infinity
    expected_nonfinite: int  # NaN and infinities that belong there
    low: float  # least finite value expected; 0 where there is none
    high: float  # largest finite value expected


def measure(actual: Array, expected: Array, stored: str) -> Deviation:
    """Measure one float tensor, in chunks of rows and in float64.

    Args:
        actual: any float dtype.
        expected: the same shape.
        stored: format that `actual` was rounded to, for rule 4.
    """
    rows, width = _row_shape(actual.shape)
    left, right = actual.reshape(rows, width), expected.reshape(rows, width)
    errors, lengths = np.zeros(rows), np.zeros(rows)
    one_sided = other = 0
    step = max(1, _CHUNK_ELEMENTS // width)
    for start in range(0, rows, step):
        chunk = slice(start, start + step)
        a, e = left[chunk].astype(np.float64), right[chunk].astype(np.float64)
        wild_a, wild_e = ~np.isfinite(a), ~np.isfinite(e)
        same = (a == e) | (np.isnan(a) & np.isnan(e))
        one_sided += int(np.count_nonzero(wild_a != wild_e))
        other += int(np.count_nonzero(wild_a & wild_e & ~same))
        a[wild_a | wild_e] = e[wild_a | wild_e] = 0.0
        gaps = a - e
        if stored == "float16":
            gaps[np.abs(gaps) <= _HALF_SPACING] = 0.0
        errors[chunk], lengths[chunk] = np.linalg.norm(gaps, axis=1), np.linalg.norm(e, axis=1)
    whole = float(np.linalg.norm(lengths))
    worst = _ratio(errors, np.maximum(lengths, whole / math.sqrt(max(1, rows)))).max(initial=0.0)
    overall = _ratio(np.array(np.linalg.norm(errors)), np.array(whole))
    kept = right[np.isfinite(right)]
    low, high = (float(kept.min()), float(kept.max())) if kept.size else (0.0, 0.0)
    return Deviation(float(worst), float(overall), one_sided, other, right.size - kept.size, low, high)


def _ratio(errors: Doubles, lengths: Doubles) -> Doubles:
    """Errors over lengths; an error where nothing should be is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors > 0, errors / lengths, 0.0)


def _row_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rule 1: join trailing dimensions until a row has 16 elements, or is the whole tensor."""
    width = 1
    for size in reversed(shape):
        width *= size
        if width >= _SHORT_ROW:
            break
    return math.prod(shape) // max(1, width), max(1, width)
