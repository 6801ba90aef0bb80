"""Inputs that feel what a simplification may not do: zeros, zero heads, tiny norms, exact ties, huge values.

Real frames have norms near 1 and similarities that spread; on them a graph without the `+ 1e-8` of a norm decides like
one that has it. These inputs decide otherwise, and by far: no similarity of the mixed clip comes nearer to a threshold
than tens of times what rounding can bridge, so that what differs is an error of logic, on any processor.

Vectors have one element a head, or four equal ones, and magnitudes are powers of two: norms, products and quotients are
then exact, or one correct rounding, in whatever order a runtime adds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.model import PixelSpec

# Where a norm of n gives a cosine of (n / (n + 1e-8))², between 0.01 and 0.98; none lies near the thresholds. The least
# are denormal, and their squares vanish. Float16 ends at 2^-24, which is 0.73.
TINY = {"float32": (-140, -34, -28, -27, -26, -24, -23, -20), "float16": (-24, -24, -24, -23)}
# Squares of sums over a whole frame stay finite.
HUGE = {"float32": (50, 52), "float16": (14, 15)}
LARGEST_HALF = 65504.0
THRESHOLD, BELOW_ZERO = 0.815, -0.5
_CHANNELS = 4
# One cell in so many changes from frame to frame.
_CHANGES = 8


@dataclass(frozen=True)
class EdgeClip:
    """Features of the token merger at which rounding cannot excuse a decision."""

    key: str  # names its fixture
    name: str  # what is in it, for messages
    features: NDArray[np.floating]  # [T, N, C], in the dtype of the graph
    frames: int  # frames that count; the one after holds what would be seen if it did
    thresholds: tuple[float, float]  # spatial and temporal


def edge_clips(merge: MergeSpec, dtype: str) -> list[EdgeClip]:
    """Return a clip of zeros, and one of tiny norms, huge values, ties, and zeros beside zero heads in its quarters."""
    shape = (merge.frames, merge.cells, merge.channels)
    zeros = EdgeClip("zeros", "all zeros", np.zeros(shape, dtype), merge.frames, (BELOW_ZERO, THRESHOLD))
    frames = max(1, merge.frames - 1)
    features = _mixed(merge, dtype)
    features[frames:] = LARGEST_HALF
    name = "zeros, zero heads, tiny norms, ties and huge values"
    return [zeros, EdgeClip("edges", name, features, frames, (THRESHOLD, THRESHOLD))]


def edge_pixels(count: int, pixels: PixelSpec, dtype: str) -> NDArray[np.floating]:
    """[n, 3, H, W], n = min(count, 5): black, white, the mean, a chessboard, and one of the least number there is.

    Five images where so many are wanted; fewer hold several kinds each, side by side. A frame of a full-size encoder
    takes seconds in every stage, so the edges cost one batch and not two.
    """
    mean, std = (np.array(row)[:, None, None] for row in (pixels.mean, pixels.std))
    black, white = -mean / std, (1.0 - mean) / std
    odd = np.indices((pixels.height, pixels.width)).sum(0) % 2 == 1
    least = float(np.finfo(dtype).smallest_subnormal) * np.where(odd, 1.0, -1.0)
    kinds = np.stack(np.broadcast_arrays(black, white, 0.0 * mean, np.where(odd, white, black), least + 0.0 * mean))
    groups = np.array_split(kinds, min(count, len(kinds)))
    images: NDArray[np.floating] = np.stack([_side_by_side(group) for group in groups]).astype(dtype)
    return images


def _side_by_side(kinds: NDArray[np.floating]) -> NDArray[np.floating]:
    """[k, 3, H, W] → [3, H, W]: the first in the columns on the left, and so on."""
    columns = np.array_split(np.arange(kinds.shape[-1]), len(kinds))
    return np.concatenate([kind[..., part] for kind, part in zip(kinds, columns, strict=True)], axis=-1)


def _mixed(merge: MergeSpec, dtype: str) -> NDArray[np.floating]:
    rng = np.random.default_rng(0)
    shape = (merge.frames, merge.height, merge.width)
    still = rng.integers(0, _CHANNELS, shape[1:])
    # Neighbours that agree merge in space; some cells change with time.
    still = np.repeat(np.repeat(still[::2, ::2], 2, 0), 2, 1)[: merge.height, : merge.width]
    channel = np.where(rng.integers(0, _CHANGES, shape) == 0, rng.integers(0, _CHANNELS, shape), still)
    four = np.broadcast_to(rng.integers(0, 3, shape[1:]) == 0, shape)
    lower = np.arange(merge.height)[:, None] >= merge.height // 2
    right = np.arange(merge.width) >= merge.width // 2
    quarter = np.broadcast_to(2 * lower + right, shape)
    tiny, huge = (_pick(table[dtype], rng, shape[1:]) for table in (TINY, HUGE))
    if dtype == "float16":
        huge = np.where(rng.integers(0, 3, shape[1:]) == 0, LARGEST_HALF, huge)
    zero = rng.integers(0, 2, shape[1:]) == 0
    scale = np.select([quarter == 0, quarter == 1, quarter == 3], [tiny, huge, 1.0 - zero], 1.0)
    features = _vectors(merge, channel, four & (quarter == 2)) * scale.astype(np.float32)[..., None]
    if merge.head_dim:
        heads = features.reshape(*shape, -1, merge.head_dim)
        heads[:, quarter[0] == 3, 0] = 0.0
    cells: NDArray[np.floating] = features.reshape(merge.frames, merge.cells, merge.channels).astype(dtype)
    return cells


def _vectors(merge: MergeSpec, channel: NDArray[np.int64], four: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[T, H, W, C]: in each head one element that is 1, or the first four."""
    width = merge.head_dim or merge.channels
    heads = merge.channels // width
    vectors = np.zeros((*channel.shape, heads, width), np.float32)
    np.put_along_axis(vectors, (channel % width)[..., None, None], 1.0, axis=-1)
    if width >= _CHANNELS:
        vectors[four] = np.arange(width) < _CHANNELS
    return vectors.reshape(*channel.shape, merge.channels)


def _pick(exponents: tuple[int, ...], rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return (2.0 ** rng.choice(exponents, shape)).astype(np.float32)
