"""Pictures inside a text file: frames and sheets as data URIs, small enough to be sent around."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sttm_export.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

MOST_BYTES = 1_500_000
"""Of all frames of a clip together, before base64 makes a third more of them."""
# (pixels of the longer side, quality): the first that keeps within that is taken, and the last whatever comes out.
_SIZES = ((720, 80), (560, 78), (420, 75), (320, 72), (240, 66), (160, 60))
_SHEET_QUALITY = 82
_PNG = b"\x89PNG\r\n\x1a\n"


def embed_frames(frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], most_bytes: int = MOST_BYTES) -> list[str]:
    """Return a data URI of each frame, all as large as fits into `most_bytes`; none is made larger than it is.

    Args:
        frames: each [h, w, 3] uint8 RGB.
        most_bytes: of all together.
    """
    for side, quality in _SIZES:
        made = [_jpeg(_smaller(frame, side), quality) for frame in frames]
        if sum(map(len, made)) <= most_bytes:
            break
    return [_uri(data) for data in made]


def embed_png(path: Path) -> str:
    """Return a PNG file as the data URI of a JPEG, which takes a third of the bytes.

    Raises:
        UserError: it cannot be read, or is no PNG.
    """
    from PIL import Image

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read the picture {path}: {error.strerror}; give a PNG file, or none.") from error
    if not data.startswith(_PNG):
        raise UserError(f"{path} is not a PNG picture; give the PNG that the drawing of tokens wrote.")
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(f"The picture {path} is damaged: {error}; give the PNG that was written.") from error
    return embed_picture(picture)


def embed_picture(picture: Image.Image) -> str:
    """Return a picture as the data URI of a JPEG."""
    return _uri(_jpeg(picture, _SHEET_QUALITY))


def _smaller(frame: NDArray[np.uint8], side: int) -> Image.Image:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality, optimize=True, progressive=True)
    return file.getvalue()


def _uri(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
