"""A source that comes live and may break off: it is opened again, with longer and longer pauses, and said each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from sttm_export.errors import UserError
from sttm_export.runtime.frame import Frame
from sttm_export.runtime.video import upright
from sttm_export.streams.address import Address
from sttm_export.streams.connection import BrokenOff, open_live, reason_of
from sttm_export.streams.pictures import NothingDecoded, Pictures, Say
from sttm_export.streams.stream_clock import StreamClock
from sttm_export.streams.ticks import Ticks

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each try to open a source again; the last one goes on."""
Connect = Callable[[], AbstractContextManager[tuple[Any, Any, bool]]]


class Camera:
    """Frames of a stream or a camera; one that cannot be opened at first is an error at once.

    Args:
        address: on the network, or a device.
        say: takes a sentence for each break, and for each change of size.
        fps: frames to take a second; those between are decoded, as the others need them, and go no further.
        timeout: seconds without data after which it has broken off.
        retries: tries in a row to open it again; None goes on for ever. With 0 the end of the stream is an end.
        transport: of RTSP's pictures: `tcp` or `udp`.
        connect: opens it, in place of what is described above.
        clock: of this machine, in seconds.
        wait: waits so many seconds, and says whether it was closed meanwhile.
    """

    waits = False

    def __init__(
        self,
        address: Address,
        say: Say,
        *,
        fps: float | None = None,
        timeout: float = 5.0,
        retries: int | None = None,
        transport: str = "tcp",
        connect: Connect | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._address, self._say, self._timeout, self._retries = address, say, timeout, retries
        self._connect = connect or partial(open_live, address, timeout, transport)
        self._closed = threading.Event()
        self._now, self._wait = clock, wait or self._closed.wait
        self._ticks, self._clock = Ticks(fps), StreamClock(clock)
        self._pictures = Pictures(address.shown, say)
        self._breaks = self._reopened = 0
        self._broken_at: float | None = None

    @property
    def counters(self) -> Mapping[str, int]:
        """Pictures decoded, packets and pictures left out as damaged, and how often it came back after a break."""
        return {
            "decoded": self._pictures.decoded,
            "corrupt": self._pictures.corrupt,
            "reopened": self._reopened,
        }

    def close(self) -> None:
        """End at the next frame, or at once in a pause; a silent peer is waited for no longer than `timeout`."""
        self._closed.set()

    def frames(self) -> Iterator[Frame]:
        """Yield frames until it is closed.

        Raises:
            UserError: it cannot be opened at first, or did not come back in so many tries.
        """
        failed = 0
        while not self._closed.is_set():
            before, ended = self._pictures.decoded, False
            try:
                yield from self._connection()
                reason, ended = "the stream ended", True
            except BrokenOff as error:
                reason = str(error)
                if self._breaks == 0 and self._pictures.decoded == 0:
                    raise UserError(
                        f"Cannot open {self._address.shown}: {reason}; check the address, and that it can be reached."
                    ) from error
            if self._closed.is_set():
                return
            failed = 0 if self._pictures.decoded > before else failed
            if self._retries is not None and failed >= self._retries:
                return self._give_up(reason, ended)
            if self._pause(reason, PAUSES[min(failed, len(PAUSES) - 1)], failed + 1):
                return
            failed += 1

    def _connection(self) -> Iterator[Frame]:
        """Frames from one opening to the break, which is the end of the stream or raised."""
        import av

        with self._connect() as (container, stream, has_clock):
            self._clock.restart()
            opening = has_clock
            try:
                for number, picture in self._pictures.of(container, stream):
                    self._note_return()
                    if self._closed.is_set():
                        return
                    if opening and picture.time is None:
                        opening = False  # FFmpeg knows the times of RTSP from the second picture on
                        continue
                    opening = False
                    moment = self._clock.stamp(picture.time if has_clock else None)
                    if self._ticks.takes(moment):
                        yield Frame(number, moment, upright(picture))
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                raise BrokenOff(reason_of(error, self._timeout)) from None
            except NothingDecoded:
                raise BrokenOff("what came could not be decoded") from None

    def _pause(self, reason: str, seconds: float, attempt: int) -> bool:
        """Say what happened, and wait; whether it was closed meanwhile."""
        self._breaks += 1
        if self._broken_at is None:
            self._broken_at = self._now()
        of = "" if self._retries is None else f" of {self._retries}"
        self._say(f"{self._address.shown} broke off: {reason}; try {attempt}{of} to open it again in {seconds:g} s")
        return self._wait(seconds)

    def _note_return(self) -> None:
        if self._broken_at is not None:
            self._reopened += 1
            self._say(f"{self._address.shown} is back after {self._now() - self._broken_at:.1f} s")
            self._broken_at = None

    def _give_up(self, reason: str, ended: bool) -> None:
        if ended and self._retries == 0:
            return
        tries = f" and did not come back in {self._retries} tries" if self._retries else ""
        raise UserError(
            f"{self._address.shown} broke off: {reason}{tries}; check the source, or give more --retries, or none "
            "to go on for ever."
        )
