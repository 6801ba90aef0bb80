"""A contact sheet of a merged clip: what every frame newly contributes, drawn over the frame itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.model import GridSpec
from sttm_export.errors import UserError
from sttm_export.files.whole import written_whole
from sttm_export.runtime.colors import group_colors, rgb
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.paint import SHADE, paint_frame

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Frames = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
Times = Sequence[float] | NDArray[np.float64] | None
_PAPER, _INK, _QUIET, _RULE = (17, 20, 26), (240, 242, 245), (150, 158, 170), (46, 52, 62)
_ACCENT = rgb(0)
_MARGIN, _GAP, _HEADER, _CAPTION = 28, 16, 104, 44
_MOST_SHOWN = 64


@dataclass(frozen=True)
class _Layout:
    """Places of the tiles; all in pixels."""

    columns: int
    rows: int
    tile: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.tile
        return (
            2 * _MARGIN + self.columns * width + (self.columns - 1) * _GAP,
            _HEADER + self.rows * (height + _CAPTION + _GAP) + _MARGIN - _GAP,
        )

    def origin(self, place: int) -> tuple[int, int]:
        row, column = divmod(place, self.columns)
        return _MARGIN + column * (self.tile[0] + _GAP), _HEADER + row * (self.tile[1] + _CAPTION + _GAP)


def draw_tokens(
    frames: Frames, merged: MergedTokens, grid: GridSpec, path: str | Path, *, timestamps: Times = None, title: str = ""
) -> Path:
    """Write what `render_tokens` draws as a PNG, whole or not at all.

    Raises:
        UserError: as `render_tokens`, or the path cannot be written.
    """
    sheet = render_tokens(frames, merged, grid, timestamps=timestamps, title=title)
    with written_whole(path) as (file,):
        write_png(file, sheet)
    return Path(path)


def write_png(file: BinaryIO, sheet: Image.Image) -> None:
    """Write a picture to an open file."""
    sheet.save(file, format="PNG", optimize=True)


def render_tokens(
    frames: Frames, merged: MergedTokens, grid: GridSpec, *, timestamps: Times = None, title: str = ""
) -> Image.Image:
    """Draw the sampled frames with their tokens.

    Bright, outlined cells are tokens that begin in the frame; dimmed cells joined a token of an earlier frame and have
    its colour (`paint`). Clips of more than 64 frames are shown thinned evenly, and the header says so.

    Args:
        frames: n of [h, w, 3] uint8 RGB, n at least the frames that were merged; tiles have the form of the first.
        merged: result of the merger.
        grid: H×W of the tokens of one frame.
        timestamps: [n] seconds, for the captions.
        title: a line for the header, such as the name of the clip.

    Raises:
        UserError: fewer frames than were merged, or a grid of another size.
    """
    from PIL import Image, ImageDraw

    count = merged.num_frames
    if len(frames) < count or grid.cells != merged.cells:
        raise UserError(
            f"The result holds {count} frames of {merged.cells} cells, but {len(frames)} frames and a grid of "
            f"{grid.height}x{grid.width} were given; draw the frames that were merged."
        )
    shown = sorted({round(i) for i in np.linspace(0, count - 1, min(count, _MOST_SHOWN))})
    layout = _arrange(len(shown), *frames[0].shape[:2])
    sheet = Image.new("RGB", layout.size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    _header(pen, layout, merged, title, len(shown))
    colors = group_colors(merged.assignment, grid.width)
    for place, t in enumerate(shown):
        x, y = layout.origin(place)
        sheet.paste(paint_frame(frames[t], merged, grid, t, layout.tile, colors), (x, y))
        _caption(pen, (x, y + layout.tile[1]), layout.tile[0], merged, t, None if timestamps is None else timestamps[t])
    return sheet


def _arrange(count: int, height: int, width: int) -> _Layout:
    """As many columns as make the sheet about 3:2; smaller tiles where there are many."""
    tile_width = 360 if count <= 9 else 300 if count <= 24 else 220
    tile_height = max(1, round(tile_width * min(max(height / width, 0.4), 1.8)))
    columns = round(math.sqrt(1.5 * count * (tile_height + _CAPTION) / tile_width))
    # The header needs the width of three tiles; fewer frames than columns leave no empty ones.
    columns = max(min(columns, count), min(count, 3), 1)
    columns = max(columns, math.ceil(620 / tile_width))
    return _Layout(columns, math.ceil(count / columns), (tile_width, tile_height))


def _caption(
    pen: ImageDraw.ImageDraw, at: tuple[int, int], width: int, merged: MergedTokens, t: int, time: float | None
) -> None:
    x, y = at
    new = int(merged.new_tokens_per_frame()[t])
    # Share of the frame's cells that became tokens of their own, as a bar under the picture.
    pen.rectangle((x, y + 5, x + width - 1, y + 8), fill=_RULE)
    if new:
        pen.rectangle((x, y + 5, x + max(1, round(width * new / merged.cells)) - 1, y + 8), fill=_ACCENT)
    when = f"frame {t}" if time is None else f"{time:.2f} s"
    pen.text((x, y + 15), when, font=_font(16), fill=_INK)
    pen.text((x + width, y + 15), f"{new} new / {merged.cells} cells", font=_font(16), fill=_QUIET, anchor="ra")


def _header(pen: ImageDraw.ImageDraw, layout: _Layout, merged: MergedTokens, title: str, shown: int) -> None:
    cells = merged.assignment.size
    headline = f"{merged.num_tokens:,} tokens of {cells:,}  ({100 * merged.share:.1f} %)"
    spatial, temporal = merged.thresholds.tolist()
    facts = [title, f"budget {merged.max_tokens:,} tokens"]
    facts += [f"thresholds {spatial:.4g} spatial, {temporal:.4g} temporal"]
    facts += [f"{shown} of {merged.num_frames} frames shown"] if shown < merged.num_frames else []
    pen.text((_MARGIN, 22), headline, font=_font(30), fill=_INK)
    pen.text((_MARGIN, 66), "   ·   ".join(filter(None, facts)), font=_font(16), fill=_QUIET)
    _legend(pen, layout.size[0] - _MARGIN, 28, wide=layout.size[0] >= 1000)


def _legend(pen: ImageDraw.ImageDraw, right: int, y: int, *, wide: bool) -> None:
    entries = (("joined a token of an earlier frame", SHADE, rgb(1)), ("new token", (112, 118, 128), _ACCENT))
    for text, fill, outline in entries if wide else ():
        left = right - round(pen.textlength(text, font=_font(16)))
        pen.text((left, y), text, font=_font(16), fill=_QUIET)
        pen.rectangle((left - 28, y + 1, left - 10, y + 17), fill=fill, outline=outline)
        right = left - 50


def _font(size: int) -> Any:
    from PIL import ImageFont

    # Pillow brings one scalable font of its own, so the sheet looks alike on every machine.
    return ImageFont.load_default(size)
