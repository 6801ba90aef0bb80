"""Features to measure with: a real clip of tests/golden, lifted to the channels of a language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sttm_export.errors import UserError

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
CLIPS = ("bikes_32x14x14", "bunny_16x14x14", "carphone_16x14x14")
# Share of the signal: what a projector's thousands of channels hold besides the 16 that the golden files keep.
NOISE = 0.05


def real_features(
    frames: int, channels: int, clip: str = CLIPS[0], noise: float = NOISE, seed: int = 0
) -> NDArray[np.float32]:
    """Return [T, N, C] features with the similarities of real video.

    A random projection keeps angles, so cosines between tokens are those of the clip but for the noise. A longer clip
    plays forth and back: neighbouring frames stay neighbours, and no cut is added that the video does not have.

    Args:
        frames: T.
        channels: C.
        clip: a file of tests/golden, without its suffix.
        noise: standard deviation of white noise, as a share of that of the features.
        seed: of projection and noise; the same arguments give the same features.

    Raises:
        UserError: there is no such clip.
    """
    path = GOLDEN / f"{clip}.npz"
    if not path.is_file():
        raise UserError(f"There is no clip '{clip}' in tests/golden; choose one of {', '.join(CLIPS)}.")
    with np.load(path) as data:
        small = data["features"].astype(np.float32)
    cells = small.reshape(*small.shape[:2], -1).transpose(0, 2, 1)[forth_and_back(len(small), frames)]
    rng = np.random.default_rng(seed)
    projection = rng.standard_normal((cells.shape[2], channels), np.float32) / np.float32(np.sqrt(cells.shape[2]))
    features: NDArray[np.float32] = cells @ projection
    scale = np.float32(noise * features.std())
    for t in range(frames):  # frame by frame: noise for all of a long clip at once would double the memory
        features[t] += scale * rng.standard_normal(features.shape[1:], np.float32)
    return features


def forth_and_back(length: int, frames: int) -> NDArray[np.int64]:
    """[frames] indices 0, 1, …, length - 1, length - 2, …, 1, 0, 1 and so on."""
    period = max(1, 2 * length - 2)
    position = np.arange(frames) % period
    return np.minimum(position, period - position) if length > 1 else np.zeros(frames, np.int64)
