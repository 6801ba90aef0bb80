"""The thresholds a solver may choose from: the gaps between similarities that rounding cannot bridge (rule 8.4).

A threshold decides alike on every machine only if no similarity lies so close to it that the last bits decide. So the
solvers never try similarities themselves: they try the middles of the gaps between them, in descending order, and of
those only the gaps that are wide enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sttm_export.merging.grouping import exclusive_sum, stable_order

UNIT_ROUNDOFF = 2.0**-24

_KEY_BITS = 26
_KEY_SCALE = 2.0**24


def rounding_band(channels: int) -> float:
    """By how much rounding can move a float32 cosine of so many channels: 4 · u · sqrt(channels).

    A dot product and two norms, each with an error near u · sqrt(channels), over the magnitude of a cosine, 1.
    """
    return 4.0 * UNIT_ROUNDOFF * math.sqrt(channels)


def least_gap(channels: int) -> float:
    """Least distance of two similarities that a solved threshold may stand between (rule 8.4).

    Sums of C products differ between machines by about u · sqrt(C), the few operations after them by some u more. The
    whole band is asked of the distance to 1 alone: in a long clip no gap may be as wide as twice the band.
    """
    return UNIT_ROUNDOFF * (math.sqrt(channels) + 32.0)


@dataclass(frozen=True)
class Ladder:
    """Gaps between M similarities, from the top down: gap i has i similarities above it, i = 0 … M."""

    order: Tensor  # [M] int32, row-major index of the i-th greatest similarity
    middles: Tensor  # [M + 1] float32, middle of each gap
    gaps: Tensor  # [M + 1] float32, its width; 0 for one that is too narrow to hold a threshold

    @property
    def usable(self) -> Tensor:
        """[M + 1] bool."""
        return self.gaps > 0


def build_ladder(values: Tensor, top: float, bottom: Tensor, narrowest: float) -> Ladder:
    """Sort similarities and measure the gaps between them.

    Args:
        values: float32, in [-2.5, 2], any shape.
        top: where the first gap begins; similarities above count as `top`, so that no gap parts them.
        bottom: scalar, where the last gap ends; the same for similarities below.
        narrowest: least gap of use.
    """
    flat = values.flatten()
    # Exact for similarities above 1/16, good to 2.4e-7 below. Two of one key may stand in the wrong order, which makes
    # the gap beside them look wider by up to two steps; so much is asked for on top.
    keys = torch.floor((1.0625 - flat) * _KEY_SCALE).clamp(0.0, 2.0**_KEY_BITS - 1.0)
    order = stable_order(keys, _KEY_BITS)
    held = torch.maximum(flat.gather(0, order.long()).clamp(max=top), bottom)
    upper = torch.cat([torch.full((1,), top), held])
    lower = torch.cat([held, bottom.view(1)])
    width = upper - lower
    wide = width >= narrowest + 4.0 / _KEY_SCALE
    return Ladder(order, 0.5 * (upper + lower), torch.where(wide, width, 0.0))


def compact(ladder: Ladder) -> tuple[Tensor, Tensor, Tensor]:
    """Usable gaps first, in order: middles [M + 1], widths [M + 1], and how many there are (scalar float32)."""
    size = ladder.gaps.shape[0]
    usable = ladder.usable.float()
    # Each usable gap goes to its rank, all others to the spare place behind; which of them wins there is no matter.
    place = torch.where(ladder.usable, exclusive_sum(usable), float(size)).to(torch.int64)
    spare = torch.zeros(size + 1)
    middles, gaps = (spare.scatter(0, place, values)[:size] for values in (ladder.middles, ladder.gaps))
    return middles, gaps, usable.sum()


def pick(chosen: Tensor, score: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Greatest score among the chosen, and the greatest value that has it; (-1, -inf) if none is chosen.

    Args:
        chosen: [M] bool.
        score: [M] float32, >= 0.
        values: [M] float32.
    """
    held = torch.where(chosen, score, -1.0)
    best = held.amax(0)
    return best, torch.where(chosen & (held == best), values, -torch.inf).amax(0)
