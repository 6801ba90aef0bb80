"""One frame with its tokens: as the tiles of the picture, the frames of the overlay and the player of a report show it.

Cells of a token that begins in the frame are as they were filmed, in a solid outline of the token's colour. Cells that
joined a token of an earlier frame are dimmed and tinted with its colour, in a thin outline.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.model import GridSpec
from sttm_export.runtime.colors import PALETTE, rgb
from sttm_export.runtime.merged import MergedTokens

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]
SHADE = (13, 18, 30)
"""What dimmed cells fade into."""
LEFT, TINT = 0.34, 0.24
"""Share of the picture that is left in a dimmed cell, and of its token's colour in what covers the rest."""
_THICKEST = 4  # pixels of a solid outline
_THIN, _CASING = 0.62, 0.45  # strength of a thin outline, and of the dark line inside a solid one


def paint_frame(
    frame: Pixels, merged: MergedTokens, grid: GridSpec, t: int, size: tuple[int, int], colors: NDArray[np.integer]
) -> Image.Image:
    """Draw the tokens of frame `t` over it.

    Args:
        frame: [h, w, 3] uint8 RGB.
        merged: result of the merger.
        grid: H×W of the tokens of one frame.
        t: number of the frame.
        size: width and height of the result in pixels.
        colors: [n] colour of each token (`colors.group_colors`).
    """
    from PIL import Image

    width, height = size
    picture = Image.fromarray(np.ascontiguousarray(frame)).resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.float32)
    token = _spread(merged.assignment[t], grid, size)
    new = merged.token_box[token, 0] == t
    color = np.array([rgb(place) for place in range(len(PALETTE))], np.float32)[colors[token]]
    covered = (1 - TINT) * np.array(SHADE, np.float32) + TINT * color
    pixels = np.where(new[..., None], pixels, LEFT * pixels + (1 - LEFT) * covered)
    line = min(max(1, round(min(width / grid.width, height / grid.height) / 16)), _THICKEST)
    thin, solid = ~new & _inner_border(token, 1), new & _inner_border(token, line)
    if line > 1:  # a small cell would be darkened as a whole
        casing = new & _inner_border(token, line + 1)
        pixels = np.where(casing[..., None], (1 - _CASING) * pixels, pixels)
    pixels = np.where(thin[..., None], (1 - _THIN) * pixels + _THIN * color, pixels)
    pixels = np.where(solid[..., None], color, pixels)
    return Image.fromarray(pixels.round().astype(np.uint8))


def cell_edges(cells: int, pixels: int) -> NDArray[np.int64]:
    """[cells + 1]: where cells begin and end in so many pixels."""
    return np.round(np.linspace(0, pixels, cells + 1)).astype(np.int64)


def _spread(tokens: NDArray[np.integer], grid: GridSpec, size: tuple[int, int]) -> NDArray[np.integer]:
    """[N] → [h, w]: the token under each pixel."""
    rows, columns = (np.diff(cell_edges(*side)) for side in ((grid.height, size[1]), (grid.width, size[0])))
    return np.repeat(np.repeat(tokens.reshape(grid.height, grid.width), rows, 0), columns, 1)


def _inner_border(token: NDArray[np.integer], line: int) -> NDArray[np.bool_]:
    """[h, w]: pixels that have another token, or the end of the picture, at most `line` pixels away."""
    low = high = np.pad(token, line, constant_values=-1)
    for axis in (0, 1):
        low, high = _extreme(np.minimum, low, line, axis), _extreme(np.maximum, high, line, axis)
    border: NDArray[np.bool_] = low != high
    return border


def _extreme(ufunc: np.ufunc, values: NDArray[np.integer], line: int, axis: int) -> NDArray[np.integer]:
    """The least or largest of each 2·line + 1 values in a row; the axis becomes shorter by 2·line."""
    length = values.shape[axis] - 2 * line
    windows = (values[(slice(None),) * axis + (slice(start, start + length),)] for start in range(2 * line + 1))
    found: NDArray[np.integer] = functools.reduce(ufunc, windows)
    return found
