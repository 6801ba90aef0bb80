"""RGB frames → the tower's pixel values, as the published image processors make them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.model import PixelSpec
from sttm_export.errors import UserError

_SCALE = 1.0 / 255.0


def pixel_values(
    frames: NDArray[np.uint8] | Iterable[NDArray[np.uint8]], pixels: PixelSpec, frames_per_step: int = 1
) -> NDArray[np.float32]:
    """Resize (bicubic, no crop: the sides are stretched), scale to [0, 1], then (x - mean) / std of each channel.

    Args:
        frames: uint8 RGB, [n, h, w, 3] or an iterable of [h, w, 3].
        pixels: size, mean and deviation.
        frames_per_step: frames that make one step; the last frame is repeated until there are whole steps.

    Returns:
        [n, 3, H, W] float32.

    Raises:
        UserError: no frames, or frames that are not uint8 RGB.
    """
    made = [normalized(resized(np.asarray(frame), pixels), pixels) for frame in frames]
    if not made:
        raise UserError("There are no frames to preprocess; give at least one frame [h, w, 3].")
    return np.stack(made + made[-1:] * (-len(made) % frames_per_step))


def resized(frame: NDArray[np.uint8], pixels: PixelSpec) -> NDArray[np.uint8]:
    """Resize one frame as the model sees it (bicubic, both sides stretched), before its values are scaled.

    Args:
        frame: uint8 RGB, [h, w, 3].
        pixels: size to resize to.

    Returns:
        [H, W, 3] uint8.

    Raises:
        UserError: a frame that is not uint8 RGB.
    """
    from PIL import Image

    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise UserError(
            f"A frame must be uint8 RGB [h, w, 3], got {frame.dtype} {list(frame.shape)}; convert it first."
        )
    # Pillow's bicubic widens its kernel when shrinking (it antialiases) and rounds to uint8; the model was trained so.
    image = Image.fromarray(np.ascontiguousarray(frame)).resize((pixels.width, pixels.height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def normalized(image: NDArray[np.uint8], pixels: PixelSpec) -> NDArray[np.float32]:
    """Scale to [0, 1], then (x - mean) / std of each channel: [H, W, 3] uint8 → [3, H, W] float32."""
    scaled = (image.astype(np.float64) * _SCALE).astype(np.float32)
    mean, std = np.array(pixels.mean, np.float32), np.array(pixels.std, np.float32)
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1))
