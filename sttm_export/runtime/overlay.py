"""A video of the sampled frames with their tokens, to be shared: `paint` over each frame, a line of text under it.

H.264 in an MP4 file, 8 bits, 4:2:0, even sides: what browsers, phones and chat programs play. A frame stays for the
time to the next one, but no less than half a second and no more than a whole one, so that each can be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.model import GridSpec
from sttm_export.errors import UserError
from sttm_export.runtime.colors import group_colors, rgb
from sttm_export.runtime.draw import Frames
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.paint import paint_frame

if TYPE_CHECKING:
    from PIL import Image

RATE = 10
"""Pictures a second; a frame is repeated as long as it stays."""
SHORTEST, LONGEST = 0.5, 1.0
_ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"crf": "20", "preset": "veryfast", "tune": "stillimage"}),
    ("libopenh264", {"b": "4000000"}),
    ("mpeg4", {"qscale": "3"}),
)
_FORMAT = {"format": "yuv420p", "dst_colorspace": "ITU709", "dst_color_range": "MPEG"}
_BT709, _LIMITED = 1, 1  # ITU-T H.273, and FFmpeg's number of the range of television
_PAPER, _INK, _QUIET, _RULE = (17, 20, 26), (240, 242, 245), (150, 158, 170), (46, 52, 62)
_LARGEST, _SMALLEST, _NARROWEST = 1280, 960, 480  # pixels of a picture's longer side, and of its width
_BAND = 56  # pixels under the picture
_NO_H264 = (
    "this PyAV has no encoder of H.264, so the overlay is MPEG-4 Part 2, which players show and most browsers do not"
)


@dataclass(frozen=True)
class Overlay:
    """What the video shows: frames that were merged, and what became of them."""

    frames: Frames  # at least the T' that were merged, each [h, w, 3] uint8 RGB; all get the form of the first
    merged: MergedTokens
    grid: GridSpec  # H×W of the tokens of one frame
    timestamps: NDArray[np.float64]  # [T'] seconds

    def write(self, file: BinaryIO, advance: Callable[[str, float | None], None]) -> str:
        """Write the video to an open file.

        Args:
            file: open to be written, and seekable.
            advance: told how far it is.

        Returns:
            A sentence where it is not H.264; else nothing.

        Raises:
            UserError: PyAV has none of the encoders.
            OSError: the disk is full.
        """
        import av

        encoder, options = _encoder()
        width, height = self._size()
        with av.open(file, "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream: Any = container.add_stream(encoder, rate=Fraction(RATE), options=options)
            stream.width, stream.height, stream.pix_fmt = width, height + _BAND, _FORMAT["format"]
            tags = stream.codec_context
            # Said in the file, because players guess by the size otherwise, and show other colours.
            tags.colorspace = tags.color_primaries = tags.color_trc = _BT709
            tags.color_range = _LIMITED
            for number, (picture, repeats) in enumerate(self._pictures((width, height))):
                advance(f"frame {number + 1} of {self.merged.num_frames}", (number + 1) / self.merged.num_frames)
                shown = av.VideoFrame.from_image(picture).reformat(**_FORMAT)
                for _ in range(repeats):
                    # Without a time of its own each gets the next tick of the rate.
                    shown.pts = None
                    container.mux(stream.encode(shown))
            container.mux(stream.encode(None))
        return "" if encoder != "mpeg4" else _NO_H264

    def _pictures(self, size: tuple[int, int]) -> Iterator[tuple[Image.Image, int]]:
        """Each frame as it is shown, and for how many ticks."""
        from PIL import Image

        colors, so_far = group_colors(self.merged.assignment, self.grid.width), 0
        for t, (new, stay) in enumerate(zip(self.merged.new_tokens_per_frame().tolist(), self._stays(), strict=True)):
            so_far += new
            sheet = Image.new("RGB", (size[0], size[1] + _BAND), _PAPER)
            sheet.paste(paint_frame(self.frames[t], self.merged, self.grid, t, size, colors), (0, 0))
            self._write_line(sheet, size, t, new, so_far)
            yield sheet, stay

    def _write_line(self, sheet: Image.Image, size: tuple[int, int], t: int, new: int, so_far: int) -> None:
        from PIL import ImageDraw, ImageFont

        pen, font, (width, height) = ImageDraw.Draw(sheet), ImageFont.load_default(20 if size[0] > 600 else 16), size
        budget = self.merged.max_tokens
        pen.rectangle((0, height, width, height + 3), fill=_RULE)
        pen.rectangle((0, height, round(width * min(1.0, so_far / max(budget, 1))), height + 3), fill=rgb(0))
        left = f"{self.timestamps[t]:.2f} s   {new:,} new tokens"
        right = f"{so_far:,} of at most {budget:,}"
        pen.text((14, height + 18), left, font=font, fill=_INK)
        pen.text((width - 14, height + 18), right, font=font, fill=_QUIET, anchor="ra")

    def _size(self) -> tuple[int, int]:
        """Width and height of the picture: even, wide enough for the line under it, and of a form that screens have."""
        height, width = self.frames[0].shape[:2]
        form, longer = min(max(height / width, 0.3), 2.5), min(max(height, width, _SMALLEST), _LARGEST)
        width = max(_NARROWEST, longer / max(form, 1.0))
        return 2 * round(width / 2), 2 * round(width * form / 2)

    def _stays(self) -> list[int]:
        """[T']: ticks that each frame is shown; the last as long as the one before it."""
        gaps = np.diff(self.timestamps[: self.merged.num_frames])
        gaps = np.append(gaps, gaps[-1:] if len(gaps) else [LONGEST])
        stays: list[int] = np.round(np.clip(gaps, SHORTEST, LONGEST) * RATE).astype(int).tolist()
        return stays


def _encoder() -> tuple[str, dict[str, str]]:
    """The best encoder that this PyAV has, and its options."""
    for name, options in _ENCODERS:
        if has_encoder(name):
            return name, options
    raise UserError(
        "This PyAV can write no MP4 video; install PyAV from PyPI, whose wheels can, or leave out --overlay."
    )


def has_encoder(name: str) -> bool:
    """Whether this PyAV can encode by a codec of FFmpeg."""
    import av

    try:
        return bool(av.codec.Codec(name, "w"))
    except av.codec.codec.UnknownCodecError:
        return False
