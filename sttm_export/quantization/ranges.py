"""How a point is quantized, chosen by what its products make of it.

For each point: a few vectors of powers of two that move the size of channels into the weights (SmoothQuant, arXiv
2211.10438, with alpha chosen here), and for each of them the range by every method. All are tried on the rows that were
kept: int8 factors, float32 sums, held against the float products. The least relative error wins. Where two are within
`MARGIN` of each other, the one that comes first does: no powers before powers, `max` before the rest. No choice hangs
on the last bits then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttm_export.contracts.calibration import METHODS, Method, PointRange
from sttm_export.quantization.candidates import candidates, shifted
from sttm_export.quantization.integers import quantized, quantized_rows, step_of
from sttm_export.quantization.points import Point, reader_weights

if TYPE_CHECKING:
    from sttm_export.quantization.statistics import ActivationStatistics, PointStatistics

ALPHAS = (0.5, 0.65, 0.8, 1.0)
"""Shares of a channel's size, in octaves, that its weights take over."""
MARGIN = 1.02
_MOST = 7
"""Octaves that a channel is moved at most: a norm's weight of 0.01 is then still a normal float16."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Trial:
    exponents: NDArray[np.int64]  # [absorber's channels]; empty for none
    ranges: Mapping[Method, float]
    errors: Mapping[Method, float]

    @property
    def least(self) -> float:
        return min(self.errors.values())


def choose_ranges(
    statistics: ActivationStatistics,
    state: Mapping[str, Tensor],
    points: Sequence[Point],
    progress: Progress = lambda _done, _count: None,
) -> tuple[PointRange, ...]:
    """Choose powers of two and a range for every point.

    Args:
        statistics: of all clips.
        state: the encoder's weights by canonical name, as they were read.
        points: of the encoder.
        progress: told points done and their number.

    Returns:
        One row a point, in the order of `points`.
    """
    rows = []
    for place, point in enumerate(points):
        progress(place, len(points))
        rows.append(choose_range(point, statistics.points[point.name], reader_weights(point, state)))
    return tuple(rows)


def choose_range(point: Point, seen: PointStatistics, weight: Tensor) -> PointRange:
    """The same for one point, whose readers have the weights [outputs, width] float32."""
    if not seen.largest.any():
        # A tensor of zeros: any range keeps it.
        return PointRange(point.name, 1.0, "max", (), dict.fromkeys(METHODS, 0.0), 0.0)
    rows = seen.floats()
    expected = rows @ weight.T
    moves = [np.zeros(0, np.int64), *_moves(point, seen, weight)]
    trials = [_tried(point, seen, rows, weight, expected, exponents) for exponents in moves]
    least = min(trial.least for trial in trials)
    chosen = next(trial for trial in trials if trial.least <= least * MARGIN)
    method = next(name for name in METHODS if chosen.errors[name] <= chosen.least * MARGIN)
    return PointRange(
        name=point.name,
        largest=chosen.ranges[method],
        method=method,
        exponents=tuple(chosen.exponents.tolist()),
        errors={name: chosen.errors[name] for name in METHODS},
        error_unscaled=trials[0].least,
    )


def _moves(point: Point, seen: PointStatistics, weight: Tensor) -> list[NDArray[np.int64]]:
    """Powers of two for each alpha, those that differ: channels of the tensor near one size, as far as alpha goes."""
    if point.absorber is None:
        return []
    channels = point.absorber.channels
    sizes = seen.largest.astype(np.float64).reshape(-1, channels).max(0)
    weights = weight.abs().amax(0).double().numpy().reshape(-1, channels).max(0)
    known = (sizes > 0) & (weights > 0)
    if not known.any():
        return []
    activation, reader = (np.log2(np.where(known, row, 1.0)) for row in (sizes, weights))
    found: dict[bytes, NDArray[np.int64]] = {}
    for alpha in ALPHAS:
        octaves = np.where(known, alpha * activation - (1.0 - alpha) * reader, 0.0)
        # A common factor changes nothing, so the middle channel stays as it is.
        moves = np.where(known, np.rint(octaves - np.median(octaves[known])), 0.0).astype(np.int64)
        moves = np.clip(moves, -_MOST, _MOST)
        if moves.any():
            found.setdefault(moves.tobytes(), moves)
    return list(found.values())


def _tried(
    point: Point,
    seen: PointStatistics,
    rows: Tensor,
    weight: Tensor,
    expected: Tensor,
    exponents: NDArray[np.int64],
) -> _Trial:
    """Relative error of the products for the range of each method, after channels were divided."""
    spread = np.array(point.spread(exponents.tolist()), np.int64)
    factors = torch.from_numpy(np.ldexp(np.float32(1.0), spread))
    integers, steps = quantized_rows(weight * factors)
    columns = integers.float()
    divided = rows / factors
    largest = float((seen.largest / factors.numpy()).max())
    counts = shifted(seen.counts, exponents if len(exponents) else np.zeros(len(seen.counts), np.int64))
    ranges = candidates(counts, largest)
    errors: dict[Method, float] = {}
    for method, value in ranges.items():
        step = step_of(value)
        made = (quantized(divided, step) @ columns.T) * (step * steps)
        errors[method] = _relative(made, expected)
    return _Trial(exponents, ranges, errors)


def _relative(made: Tensor, expected: Tensor) -> float:
    size = float(expected.double().norm())
    return float((made.double() - expected.double()).norm()) / size if size > 0.0 else 0.0
