"""The line of threshold pairs that fill a budget, measured on a clip, and the choice on it.

A spatial threshold is given, and policy `budget` solves the temporal one beside it (docs/semantics.md, section 8). One
that leaves fewer tokens than the budget is raised for that clip, as in a bundle: every pair keeps as many tokens.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sttm_export.contracts.calibration import LinePoint, ThresholdChoice
from sttm_export.contracts.merge import NOTHING_MERGES
from sttm_export.contracts.model import PublishedThresholds
from sttm_export.merging.static import TokenMerger
from sttm_export.runtime.fidelity import fidelity

Floats = NDArray[np.floating]

SPATIAL = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.875, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, NOTHING_MERGES)
"""Spatial thresholds that are tried, beside the published one, which is 0.8 to 0.95. At the last nothing merges within
a frame; 1 itself is left out, because there the last bit of a cosine would decide."""
TIE = 0.005
"""Distortions this near the least one, as a share of it, are as good: no last bit of a float decides."""
_DIGITS, _COSINE_DIGITS = 8, 6


@dataclass(frozen=True)
class Measured:
    """One pair on one clip."""

    spatial: float  # given
    temporal: float | None  # solved; None where the clip has one step, and nothing to merge it with
    distortion: float  # relative error of `tokens[assignment]`


def grid(published: PublishedThresholds) -> tuple[float, ...]:
    """Spatial thresholds to try for a budget, ascending."""
    return tuple(sorted({*SPATIAL, published.spatial}))


def measure_line(
    merger: TokenMerger, features: Floats, spatial: Sequence[float], told: Callable[[], None]
) -> list[Measured]:
    """Merge a clip at each spatial threshold and hold what comes out against what went in.

    Args:
        merger: of policy `budget`.
        features: [T', N, C] float32, at most T steps.
        spatial: thresholds to give.
        told: called after each.
    """
    count = len(features)
    padded = torch.zeros(merger.spec.frames, *features.shape[1:])
    padded[:count] = torch.from_numpy(np.asarray(features, np.float32))
    rows = []
    with torch.inference_mode():
        clip = merger.prepare(padded, torch.tensor(count, dtype=torch.int32))
    for threshold in spatial:
        with torch.inference_mode():
            made = merger.merge(clip, torch.tensor(threshold), torch.tensor(0.0))
        tokens, assignment, applied = made[0].numpy(), made[4].numpy()[:count], made[5].tolist()
        # A solved threshold below every similarity lies below every cosine, too.
        temporal = min(max(applied[1], -1.0), 1.0) if count > 1 else None
        rows.append(Measured(threshold, temporal, fidelity(features, tokens, assignment).relative_error))
        told()
    return rows


def choose(
    budget: float, frames: int, merge_layer: int, published: PublishedThresholds, lines: Sequence[Sequence[Measured]]
) -> ThresholdChoice:
    """Choose the pair of the least mean distortion: of those that are as good, the one nearest the published.

    Args:
        budget: share of the tokens.
        frames: T.
        merge_layer: decoder layer at whose input they merge.
        published: row of the model's table.
        lines: of every clip, with the same spatial thresholds; their order does not matter.
    """
    line = [_mean(points, published) for points in zip(*lines, strict=True)]
    least = min(point.distortion for point in line)
    good = [point for point in line if point.distortion <= least * (1.0 + TIE)]
    chosen = min(
        good, key=lambda point: (round(abs(point.spatial - published.spatial), _COSINE_DIGITS), -point.spatial)
    )
    beside = next(point for point in line if point.spatial == published.spatial)
    return ThresholdChoice(
        budget=budget,
        frames=frames,
        merge_layer=merge_layer,
        spatial=chosen.spatial,
        temporal=chosen.temporal,
        distortion=chosen.distortion,
        published_spatial=published.spatial,
        published_distortion=beside.distortion,
        line=tuple(line),
    )


def _mean(points: Sequence[Measured], published: PublishedThresholds) -> LinePoint:
    """One pair over all clips: exact sums, so that their order does not matter."""
    solved = [point.temporal for point in points if point.temporal is not None]
    return LinePoint(
        points[0].spatial,
        round(statistics.median(solved), _COSINE_DIGITS) if solved else published.temporal,
        round(math.fsum(point.distortion for point in points) / len(points), _DIGITS),
    )
