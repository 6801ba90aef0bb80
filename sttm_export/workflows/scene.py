"""The frames a bundle is validated on: from a clip, or a synthetic scene where none is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scene:
    """n frames and where they come from."""

    # [n, h, w, 3] uint8 RGB; a list where the clip changes its size.
    frames: NDArray[np.uint8] | list[NDArray[np.uint8]]
    timestamps: NDArray[np.float64]  # [n] seconds
    name: str  # file name of the clip, or what the synthetic scene is
    # One sentence when the clip was damaged, else empty.
    note: str = ""


def take_scene(clip: Path | None, count: int) -> Scene:
    """Return up to `count` frames spread evenly over the clip; a synthetic scene has exactly `count`.

    Raises:
        UserError: the clip cannot be read.
    """
    if clip is None:
        return synthetic_scene(count)
    from sttm_export.runtime.video import read_video, uniform_sampler

    video = read_video(clip, uniform_sampler(count))
    return Scene(video.frames, video.timestamps, clip.name, video.note)


def synthetic_scene(count: int, side: int = 384) -> Scene:
    """A textured background that stands still, and two discs that move over it: every kind of merge occurs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    ground = np.kron(coarse, np.ones((side // 12, side // 12, 1), np.uint8))
    y, x = np.mgrid[: ground.shape[0], : ground.shape[1]]
    frames = np.repeat(ground[None], count, axis=0)
    for t, frame in enumerate(frames):
        phase = t / max(count - 1, 1)
        for centre, color in (((0.3, 0.1 + 0.8 * phase), (250, 220, 30)), ((0.9 - 0.8 * phase, 0.6), (20, 60, 200))):
            disc = (y / side - centre[0]) ** 2 + (x / side - centre[1]) ** 2 < 0.018
            frame[disc] = color
    return Scene(frames, np.arange(count, dtype=np.float64), "a synthetic scene")
