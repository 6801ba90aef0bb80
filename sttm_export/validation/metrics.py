"""How far one array is from another: all figures in one streaming pass, in float64.

Rows are vectors of the last dimension (a token, a feature). Cosine alone is blind to scale and a norm alone is blind to
direction, so both are taken, per row. Work goes through chunks of rows: a [32, 196, 3584] array is never copied whole.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.errors import UserError

Array = NDArray[np.generic]

_CHUNK_ELEMENTS = 1 << 18  # 2 MiB of float64 a temporary
# Rows this far below the typical row hold rounding noise only, where an exact computation has a zero row.
ZERO_ROW = 1e-7


@dataclass(frozen=True)
class FloatComparison:
    """`actual` against `expected`; non-finite rows are counted and left out of every other figure."""

    rows: int  # rows that were compared (finite on both sides)
    cosine_min: float  # least cosine of a row; 1 for two zero rows, 0 for one
    cosine_mean: float  # mean cosine
    # Largest distance of two unit rows, sqrt(2 - 2·cosine); tells angles where the cosine is 1.
    angle_max: float
    # Least |actual| / |expected| of a row; 1 for two zero rows, inf where only the expected is zero.
    norm_ratio_min: float
    norm_ratio_max: float  # largest such ratio
    max_abs: float  # largest absolute difference of an element
    mean_abs: float  # mean absolute difference
    relative_frobenius: float  # norm of the difference over the norm of `expected`
    sqnr_db: float  # 20 log10 of the inverse; inf for equal arrays
    rtol: float  # relative part of the element-wise tolerance below
    atol_needed: float  # smallest atol with which |a - e| <= atol + rtol·|e| holds for every element
    # Smallest row tolerance ε that passes: cosine >= 1 - ε²/2 and |norm ratio - 1| <= ε.
    relative_needed: float
    worst_row: int  # index of the row that needs it, row-major over the leading dimensions; -1 without rows
    nonfinite_actual: int  # NaN or Inf elements in `actual`
    nonfinite_expected: int  # NaN or Inf elements in `expected`
    nonfinite_differing: int  # elements that are finite on one side only

    def to_json(self) -> dict[str, Any]:
        """Plain dict; infinite figures as text, because JSON has no number for them."""
        return {key: encode_float(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FloatComparison:
        """Read back what `to_json` gave."""
        values: dict[str, Any] = {k: float(v) if isinstance(v, str) else v for k, v in data.items()}
        return cls(**values)


def encode_float(value: float | int) -> float | int | str:
    """Return a number that JSON can hold, or the text `inf`, `-inf` or `nan`."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class _Totals:
    """Running sums over chunks."""

    def __init__(self, floor: float, rtol: float) -> None:
        self.floor, self.rtol = floor, rtol
        self.rows = self.worst_row = 0
        self.cosine_min, self.cosine_sum = 1.0, 0.0
        self.ratio_min, self.ratio_max = math.inf, 0.0
        self.max_abs = self.sum_abs = self.error_square = self.atol = self.needed = self.angle_max = 0.0

    def add(self, actual: NDArray[np.float64], expected: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
        """Take in one chunk of finite rows [r, C]; `numbers` are their places in the whole array."""
        difference = np.abs(actual - expected)
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.sum_abs += float(difference.sum())
        self.error_square += float(np.square(difference).sum())
        self.atol = max(self.atol, float((difference - self.rtol * np.abs(expected)).max()))
        gap, ratio = _rows(actual, expected, self.floor)
        cosine, angle = 1.0 - 0.5 * gap, np.sqrt(gap)
        self.angle_max = max(self.angle_max, float(angle.max()))
        self.cosine_min, self.cosine_sum = (
            min(self.cosine_min, float(cosine.min())),
            self.cosine_sum + float(cosine.sum()),
        )
        self.ratio_min, self.ratio_max = (
            min(self.ratio_min, float(ratio.min())),
            max(self.ratio_max, float(ratio.max())),
        )
        needed = np.maximum(angle, np.abs(ratio - 1.0))
        if self.rows == 0 or needed.max() > self.needed:
            self.needed, self.worst_row = float(needed.max()), int(numbers[needed.argmax()])
        self.rows += len(actual)


def compare(actual: Array, expected: Array, *, rtol: float = 1e-3) -> FloatComparison:
    """Compare two float arrays of one shape, any float dtype, row by row in float64.

    Raises:
        UserError: shapes differ.
    """
    if actual.shape != expected.shape:
        raise UserError(f"Cannot compare shape {list(actual.shape)} with {list(expected.shape)}; they must be equal.")
    width = actual.shape[-1] if actual.ndim else 1
    left, right = actual.reshape(-1, max(width, 1)), expected.reshape(-1, max(width, 1))
    square, nonfinite = _survey(left, right)
    totals = _Totals(ZERO_ROW * math.sqrt(square / max(len(right), 1)), rtol)
    for start, a, e in _chunks(left, right):
        finite = np.isfinite(a).all(1) & np.isfinite(e).all(1)
        if finite.any():
            totals.add(a[finite], e[finite], start + np.flatnonzero(finite))
    return _summary(totals, square, width, nonfinite)


def _survey(left: Array, right: Array) -> tuple[float, tuple[int, int, int]]:
    """First pass: the square sum of the rows that count, and non-finite counts (actual, expected, on one side only)."""
    square, counts = 0.0, np.zeros(3, np.int64)
    for _, a, e in _chunks(left, right):
        bad_a, bad_e = ~np.isfinite(a), ~np.isfinite(e)
        counts += [bad_a.sum(), bad_e.sum(), (bad_a != bad_e).sum()]
        square += float(np.square(e[~(bad_a | bad_e).any(1)]).sum())
    return square, (int(counts[0]), int(counts[1]), int(counts[2]))


def _chunks(left: Array, right: Array) -> list[tuple[int, Any, Any]] | Any:
    step = max(1, _CHUNK_ELEMENTS // left.shape[1])
    for start in range(0, len(left), step):
        rows = slice(start, start + step)
        yield start, left[rows].astype(np.float64), right[rows].astype(np.float64)


def _rows(
    actual: NDArray[np.float64], expected: NDArray[np.float64], floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared distance of the unit rows, 2 - 2·cosine, and norm ratio; rows at or below `floor` count as zero."""
    na, ne = np.linalg.norm(actual, axis=1), np.linalg.norm(expected, axis=1)
    zero_a, zero_e = na <= floor, ne <= floor
    safe_a, safe_e = np.where(zero_a, 1.0, na), np.where(zero_e, 1.0, ne)
    # The difference of unit rows resolves angles of 1e-16; a cosine, as a number near 1, only those above 1e-8.
    gap = np.square(actual / safe_a[:, None] - expected / safe_e[:, None]).sum(1)
    # One zero row: cosine 0.
    gap = np.where(zero_a | zero_e, np.where(zero_a & zero_e, 0.0, 2.0), gap)
    ratio = np.where(zero_e, np.where(zero_a, 1.0, np.inf), na / safe_e)
    return gap, ratio


def _summary(totals: _Totals, square: float, width: int, nonfinite: tuple[int, int, int]) -> FloatComparison:
    rows = totals.rows
    error = math.sqrt(totals.error_square)
    frobenius = error / math.sqrt(square) if square > 0 else (0.0 if error == 0 else math.inf)
    return FloatComparison(
        rows=rows,
        cosine_min=totals.cosine_min,
        cosine_mean=totals.cosine_sum / rows if rows else 1.0,
        angle_max=totals.angle_max,
        norm_ratio_min=totals.ratio_min if rows else 1.0,
        norm_ratio_max=totals.ratio_max if rows else 1.0,
        max_abs=totals.max_abs,
        mean_abs=totals.sum_abs / (rows * width) if rows else 0.0,
        relative_frobenius=frobenius,
        sqnr_db=math.inf if frobenius == 0 else -20.0 * math.log10(frobenius) if frobenius < math.inf else -math.inf,
        rtol=totals.rtol,
        atol_needed=max(totals.atol, 0.0),
        relative_needed=totals.needed,
        worst_row=totals.worst_row if rows else -1,
        nonfinite_actual=nonfinite[0],
        nonfinite_expected=nonfinite[1],
        nonfinite_differing=nonfinite[2],
    )
