"""Which frames of a video are looked at: the sampling of the published evaluation.

Integer and rational arithmetic only, so that a rate such as 30000/1001 never moves an index by rounding.
"""

from __future__ import annotations

import math
from fractions import Fraction

from sttm_export.errors import UserError

# Containers hold rates as fractions; a float that came from one is turned back into it (29.97... → 30000/1001).
_LARGEST_DENOMINATOR = 100_000


def published(total: int, video_fps: float | Fraction, fps: float, max_frames: int) -> list[int]:
    """Return the frame indices of the published runs (arXiv 2507.07990, evaluation set-up).

    At `fps` frames a second: index ceil(k · video_fps / fps), and the last frame; when that gives more than
    `max_frames`, `max_frames` indices spread evenly over the whole clip instead.

    Args:
        total: frames in the video.
        video_fps: average frame rate of the video, frames a second.
        fps: frames to take a second.
        max_frames: most frames to take.

    Raises:
        UserError: no frames, or a rate or bound that is not positive.
    """
    _check(total, max_frames)
    if not (video_fps > 0 and fps > 0):
        raise UserError(
            f"Cannot sample at {float(fps):g} fps from a video of {float(video_fps):g} fps; give rates above zero."
        )
    step = _exact(video_fps) / _exact(fps)
    if step <= 1:
        # Every index is met; steps far below one frame would be counted for hours.
        return uniform(total, max_frames)
    # A step below one frame (a slow video) repeats indices; each frame is taken once.
    wanted = {index for k in range(math.floor((total - 1) / step) + 1) if (index := math.ceil(k * step)) < total}
    indices = sorted(wanted | {total - 1})
    return indices if len(indices) <= max_frames else uniform(total, max_frames)


def uniform(total: int, count: int) -> list[int]:
    """Return `linspace(0, total - 1, count)` truncated to int; all frames when there are not more than `count`.

    Args:
        total: frames in the video.
        count: frames to take; 1 takes the first one, as linspace does.

    Raises:
        UserError: no frames or no count.
    """
    _check(total, count)
    if total <= count:
        return list(range(total))
    if count == 1:
        return [0]
    return [(k * (total - 1)) // (count - 1) for k in range(count)]


def _exact(rate: float | Fraction) -> Fraction:
    # A rate too small for that denominator would become 0.
    return Fraction(rate).limit_denominator(_LARGEST_DENOMINATOR) or Fraction(rate)


def _check(total: int, count: int) -> None:
    if total < 1:
        raise UserError("Cannot sample frames from a video that has none; give a video with at least one frame.")
    if count < 1:
        raise UserError(f"Cannot sample {count} frames; give a number of frames of at least 1.")
