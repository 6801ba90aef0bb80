"""What a range can be, by each method, from counts of magnitudes.

Symmetric int8 has 127 levels up to the largest magnitude T that it keeps; the distance of two is its step, T / 127.

- `max`: T is the largest magnitude that was seen.
- `percentile`: 99.99 % of the magnitudes lie below T.
- `entropy`: the T whose quantized distribution tells least from the one that was seen (Kullback-Leibler divergence; the
  method of TensorRT's former calibrator), outliers counted where they end, at T.
- `squared_error`: the T with the least expected squared error, of rounding inside and of cutting off outside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.calibration import Method
from sttm_export.quantization.integers import LEVELS
from sttm_export.quantization.statistics import BINS, PER_OCTAVE, upper_edges

Floats = NDArray[np.float64]
PERCENTILE = 0.9999
# Of the octaves below the largest magnitude, those that a T is looked for in; a lower one cuts everything off.
_SEARCHED = 8 * PER_OCTAVE


def shifted(counts: NDArray[np.integer], exponents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts [BINS] of all channels together, each divided by 2 to its exponent; what falls off an end stays there."""
    total = np.zeros(BINS, np.int64)
    for exponent in np.unique(exponents):
        rows = counts[exponents == exponent].sum(0, dtype=np.int64)
        np.add.at(total, np.clip(np.arange(BINS) - PER_OCTAVE * exponent, 0, BINS - 1), rows)
    return total


def candidates(counts: NDArray[np.int64], largest: float) -> dict[Method, float]:
    """T of every method.

    Args:
        counts: [BINS] magnitudes of the whole tensor.
        largest: of them, above 0.
    """
    edges = np.minimum(upper_edges(), largest)
    edges[-1] = largest
    used = int(np.flatnonzero(counts)[-1])
    places = range(max(0, used - _SEARCHED), used + 1)
    reached = np.cumsum(counts) >= PERCENTILE * counts.sum()
    return {
        "max": largest,
        "percentile": float(edges[np.argmax(reached)]),
        "entropy": float(edges[places[np.argmin([_divergence(counts, edges, place) for place in places])]]),
        "squared_error": float(edges[places[np.argmin([_squared_error(counts, edges, place) for place in places])]]),
    }


def _squared_error(counts: NDArray[np.int64], edges: Floats, place: int) -> float:
    largest = edges[place]
    step, centres = largest / LEVELS, _centres(edges)
    inside = np.minimum(centres**2, step**2 / 12)
    return float((counts * np.where(centres <= largest, inside, (centres - largest) ** 2)).sum())


def _divergence(counts: NDArray[np.int64], edges: Floats, place: int) -> float:
    """Of the distribution up to a bin, with all that lies beyond in that bin, from the same in levels."""
    seen = counts[: place + 1].astype(np.float64)
    widths = np.diff(edges[: place + 1], prepend=0.0)
    # What levels hold is spread evenly over the bins of the level that hold something, by their widths.
    levels = np.rint(_centres(edges)[: place + 1] / (edges[place] / LEVELS)).astype(np.int64)
    widths = np.where(seen > 0, widths, 0.0)
    held, room = (np.bincount(levels, row, LEVELS + 1) for row in (seen, widths))
    made = held[levels] * np.divide(widths, room[levels], out=np.zeros_like(widths), where=room[levels] > 0)
    # The outliers are not in what was quantized, so that cutting them off costs.
    seen[-1] += counts[place + 1 :].sum()
    both = (seen > 0) & (made > 0)
    seen, made = seen / seen.sum(), made / max(made.sum(), 1.0)
    return float((seen[both] * np.log(seen[both] / made[both])).sum()) + float(seen[(seen > 0) & ~both].sum()) * 1e3


def _centres(edges: Floats) -> Floats:
    return edges - 0.5 * np.diff(edges, prepend=0.0)
