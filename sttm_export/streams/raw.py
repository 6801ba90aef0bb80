"""Raw frames from a pipe or a file: pixels and nothing else, frame behind frame, as ffmpeg and GStreamer write them."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sttm_export.errors import UserError, did_you_mean
from sttm_export.runtime.frame import Frame


@dataclass(frozen=True)
class PixelFormat:
    """How a pixel lies in memory."""

    depth: int  # bytes
    channels: slice  # red, green and blue among them
    row: int = 1  # a row has a multiple of so many bytes; those behind its pixels mean nothing

    def stride(self, width: int) -> int:
        """Bytes of a row."""
        return -(-width * self.depth // self.row) * self.row


_FORWARD, _BACKWARD = slice(0, 3), slice(2, None, -1)
# In small letters ffmpeg's names, in capitals GStreamer's, which fills rows of three bytes a pixel up to whole words.
PIXEL_FORMATS = {
    "rgb24": PixelFormat(3, _FORWARD),
    "bgr24": PixelFormat(3, _BACKWARD),
    **dict.fromkeys(("rgba", "rgb0", "RGBA", "RGBx"), PixelFormat(4, _FORWARD)),
    **dict.fromkeys(("bgra", "bgr0", "BGRA", "BGRx"), PixelFormat(4, _BACKWARD)),
    "RGB": PixelFormat(3, _FORWARD, 4),
    "BGR": PixelFormat(3, _BACKWARD, 4),
}
MAX_SIDE = 16384
# Milliseconds without data after which it is looked whether the source was closed.
_PATIENCE = 100
_SIZE = re.compile(r"([0-9]{1,9})[x×X]([0-9]{1,9})")


class RawSource:
    """Frames of one known size, read as they come; see `streams.source.Source`.

    Args:
        file: a pipe or a file, with nothing buffered in it; its descriptor is read. It is not closed.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        rate: frames a second; it gives them their times.
        pixel_format: one of `PIXEL_FORMATS`; a fourth byte of a pixel is not looked at.
        waits: whether who writes can wait, as ffmpeg does with a file. A camera's frames are read as they come instead.

    Raises:
        UserError: a size, rate or format that is not possible.
    """

    def __init__(
        self, file: BinaryIO, width: int, height: int, rate: float, pixel_format: str = "rgb24", *, waits: bool = True
    ) -> None:
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise UserError(f"Frames of {width}x{height} are not possible; give sides from 1 to {MAX_SIDE}.")
        if not 0 < rate < float("inf"):
            raise UserError(f"{rate:g} frames a second are not possible; give the rate of the source, above 0.")
        if pixel_format not in PIXEL_FORMATS:
            raise UserError(f"There is no pixel format '{pixel_format}'.{did_you_mean(pixel_format, PIXEL_FORMATS)}")
        self._file, self._width, self._height, self._rate = file, width, height, rate
        self._name, self._format = pixel_format, PIXEL_FORMATS[pixel_format]
        self.waits = waits
        self._closed = False

    @property
    def counters(self) -> dict[str, int]:
        """Nothing is counted."""
        return {}

    def frames(self) -> Iterator[Frame]:
        """Yield whole frames until the pipe or file ends.

        Raises:
            UserError: it ends in the middle of a frame, or before the first; frames before that were given.
        """
        number = 0
        while True:
            data = np.empty((self._height, self._format.stride(self._width)), np.uint8)
            read = self._read(data)
            if self._closed:
                return
            if read < data.nbytes:
                self._check_end(number, read, data.nbytes)
                return
            yield Frame(number, number / self._rate, self._pixels(data))
            number += 1

    def close(self) -> None:
        """Let `frames` end soon, whatever it waits for."""
        self._closed = True

    def _read(self, data: NDArray[np.uint8]) -> int:
        """Fill the array; return the bytes that came, fewer at the end or when it was closed."""
        descriptor, left, done = self._file.fileno(), data.reshape(-1).data, 0
        watch = select.poll()
        watch.register(descriptor, select.POLLIN)
        while done < data.nbytes and not self._closed:
            if not watch.poll(_PATIENCE):
                continue
            count = os.readv(descriptor, [left[done:]])
            if count == 0:
                break
            done += count
        return done

    def _pixels(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        depth = self._format.depth
        return data[:, : self._width * depth].reshape(self._height, self._width, depth)[:, :, self._format.channels]

    def _check_end(self, number: int, read: int, needed: int) -> None:
        said = f"{self._width}x{self._height} in {self._name}"
        if number == 0 and read == 0:
            raise UserError(
                "No frame came: the pipe or file is empty; see what the program before it says, and that it writes "
                f"raw frames of {said}."
            )
        if read:
            raise UserError(
                f"The frames end in the middle of one: {read} of {needed} bytes after {number} whole frames, which "
                f"were used; if nothing was cut off, they are not {said}, so see --size and --pixel-format."
            )


def parse_size(text: str) -> tuple[int, int]:
    """Return width and height of `1920x1080`.

    Raises:
        UserError: it is no such size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"'{text}' is no size; give width and height of the frames, such as 1920x1080.")
    return int(match[1]), int(match[2])
