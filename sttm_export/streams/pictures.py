"""Packets → pictures that are whole; what is damaged, or leans on what is, is left out and counted.

A decoder goes on after damage, and draws the pictures that follow on top of it, up to the next one that needs no other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

Say = Callable[[str], None]
MOST_DAMAGED = 300
"""Packets in a row of which nothing came: it is not the stream that was opened. And pictures in a row that are left out
behind damage: in a stream without such as need no other, each one renews a part, and by then all of it is new."""


class NothingDecoded(Exception):
    """So many packets in a row gave no picture that the rest is not worth waiting for."""


class Pictures:
    """Decodes one source, which may be opened again and again.

    Args:
        shown: the source, for what is said.
        say: takes a sentence where the size of the pictures changes.
    """

    def __init__(self, shown: str, say: Say) -> None:
        self._shown, self._say = shown, say
        self._size: tuple[int, int] | None = None
        self._damaged_at: float | None = None  # presentation time, in the stream's own units
        self._left_out = 0  # pictures in a row
        self._shown_at = 0.0  # presentation time of the newest picture
        self.decoded = 0  # pictures, those left out among them
        self.corrupt = 0  # packets that the decoder refused, and pictures left out

    def of(self, container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
        """Yield (number, PyAV frame) of each whole picture; numbers count what was decoded, since the beginning.

        Raises:
            FFmpegError: the container cannot be read any further.
            NothingDecoded: see `MOST_DAMAGED`.
        """
        in_vain, self._damaged_at = 0, None
        for packet in container.demux(stream):
            in_vain += 1
            for frame in self._decode(packet):
                in_vain = 0
                self.decoded += 1
                if not self._is_whole(frame):
                    self.corrupt += 1
                    continue
                self._note_size(frame.width, frame.height)
                yield self.decoded - 1, frame
            if in_vain > MOST_DAMAGED:
                raise NothingDecoded

    def _decode(self, packet: Any) -> list[Any]:
        import av

        if packet.is_corrupt and packet.size:
            self._note_damage(packet)  # something before it was lost on the way, or a part of it
        try:
            return list(packet.decode())
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            self._note_damage(packet)
            self.corrupt += 1
            return []

    def _note_damage(self, of: Any) -> None:
        if self._damaged_at is None:
            self._left_out = 0
        self._damaged_at = -math.inf if of.pts is None else float(of.pts)

    def _is_whole(self, frame: Any) -> bool:
        """Pictures come out later than their packets went in: what is shown before the damage is not concerned."""
        pts = self._shown_at if frame.pts is None else frame.pts
        back, self._shown_at = pts < self._shown_at, pts
        if frame.is_corrupt:
            self._note_damage(frame)
            self._left_out += 1
            return False
        if self._damaged_at is None:
            return True
        # Where times go back another stream begins.
        later = frame.pts is None or pts > self._damaged_at or back
        if not later and pts < self._damaged_at:
            return True
        if (frame.key_frame and later) or self._left_out >= MOST_DAMAGED:
            self._damaged_at = None
            return True
        self._left_out += 1
        return False

    def _note_size(self, width: int, height: int) -> None:
        before, self._size = self._size, (width, height)
        if before is not None and before != self._size:
            self._say(
                f"{self._shown} changes its size from {before[0]}×{before[1]} to {width}×{height}; each frame is "
                "resized from its own"
            )
