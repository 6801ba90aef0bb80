"""RGB frames → the tower's pixel values, as the published image processors make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.model import PixelSpec
from sttm_export.errors import UserError
from sttm_export.runtime.bicubic import resize_bicubic

_SCALE = 1.0 / 255.0
# Pillow's number of it. Its name has moved: Pillow 9.0, which Ubuntu 22.04 has, knows no `Image.Resampling`.
_BICUBIC = 3
Resize = Callable[[NDArray[np.uint8], int, int], NDArray[np.uint8]]


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
    """Resize a frame [h, w, 3] to the model's [H, W, 3]: Pillow's bicubic filter, columns first, each pass rounded.

    The filter widens when it shrinks (it antialiases); the model was trained so. The numbers are the same with every
    Pillow and without one.

    Raises:
        UserError: the frame is not uint8 RGB.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise UserError(
            f"A frame must be uint8 RGB [h, w, 3], got {frame.dtype} {list(frame.shape)}; convert it first."
        )
    return _resize()(frame, pixels.width, pixels.height)


def normalized(image: NDArray[np.uint8], pixels: PixelSpec) -> NDArray[np.float32]:
    """Return [3, H, W]: (value/255 - mean) / std of each channel of what `resized` gave."""
    table = _table(pixels)
    return np.stack([table[channel][image[:, :, channel]] for channel in range(3)])


@lru_cache(maxsize=8)
def _table(pixels: PixelSpec) -> NDArray[np.float32]:
    """Return [3, 256], what becomes of each value in each channel."""
    scaled = (np.arange(256) * _SCALE).astype(np.float32)
    mean, std = np.array(pixels.mean, np.float32), np.array(pixels.std, np.float32)
    return np.stack([(scaled - mean[channel]) / std[channel] for channel in range(3)])


@lru_cache(maxsize=1)
def _resize() -> Resize:
    try:
        from PIL import Image  # noqa: F401
    except ImportError:
        return resize_bicubic
    return _resize_by_pillow


def _resize_by_pillow(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    from PIL import Image

    # One side at a time. Both passes round, so their order shows in the result, and Pillow 13 goes over the rows first
    # where the height shrinks much more. Models were trained and evaluated with the columns first, as in all before it.
    columns = Image.fromarray(np.ascontiguousarray(image)).resize((width, image.shape[0]), _BICUBIC)
    return np.array(columns.resize((width, height), _BICUBIC))
