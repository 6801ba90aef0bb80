"""Packets → pictures that are whole; what is damaged is left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Say = Callable[[str], None]
# Packets in a row of which nothing could be decoded: what comes is not the stream that was opened.
MOST_DAMAGED = 300


class NothingDecoded(Exception):
    """So many packets in a row were damaged that the rest is not worth waiting for."""


class Pictures:
    """Decodes one source, which may be opened again and again.

    Args:
        shown: the source, for what is said.
        say: takes a sentence where the size of the pictures changes.
    """

    def __init__(self, shown: str, say: Say) -> None:
        self._shown, self._say = shown, say
        self._size: tuple[int, int] | None = None
        self.decoded = 0  # pictures, damaged ones among them
        self.corrupt = 0  # packets and pictures that were left out

    def of(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """Yield (number, PyAV frame) of each whole picture; numbers count what was decoded, since the beginning.

        Raises:
            FFmpegError: the container cannot be read any further.
            NothingDecoded: see `MOST_DAMAGED`.
        """
        in_vain = 0
        for packet in container.demux(stream):
            for frame in self._decode(packet):
                in_vain = 0
                self.decoded += 1
                if frame.is_corrupt:
                    self.corrupt += 1
                    continue
                self._note_size(frame.width, frame.height)
                yield self.decoded - 1, frame
            in_vain += 1
            if in_vain > MOST_DAMAGED:
                raise NothingDecoded

    def _decode(self, packet: Any) -> list[Any]:
        import av

        if packet.is_corrupt and packet.size:
            self.corrupt += 1
            return []
        try:
            return list(packet.decode())
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self.corrupt += 1
            return []

    def _note_size(self, width: int, height: int) -> None:
        before, self._size = self._size, (width, height)
        if before is not None and before != self._size:
            self._say(
                f"{self._shown} changes its size from {before[0]}×{before[1]} to {width}×{height}; each frame is "
                "resized from its own"
            )
