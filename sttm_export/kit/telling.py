"""What is said while a stream is followed: on a terminal one line that changes, in a log one a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from sttm_export.runtime.merged import NOT_CONVERGED
from sttm_export.validation.finiteness import nonfinite

if TYPE_CHECKING:
    from sttm_export.streams.runner import Sink
    from sttm_export.streams.status import Status
    from sttm_export.streams.window import Emitted

# Seconds between two lines of a log.
_EVERY = 60.0


class Telling:
    """Says on standard error how far a stream is, and what is unusual about a window the first time it is so.

    Args:
        backend: what runs the graphs.
        file: where to; None for standard error.
        clock: gives seconds.
    """

    def __init__(self, backend: str, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend, self._file, self._clock = backend, file or sys.stderr, clock
        self._terminal = self._file.isatty()
        self._told: float | None = None
        self._width = 0
        self._said: set[str] = set()
        self._looked: float | None = None
        self._status: Status | None = None

    @property
    def written(self) -> str:
        """A sentence to put behind another one: how many windows were written, if any were."""
        count = self._status.windows if self._status else 0
        return f" {_windows(count)} {'was' if count == 1 else 'were'} written before, each whole." if count else ""

    @property
    def summary(self) -> str:
        """`12 windows of 340 frames (118 encoded, 222 still) by tensorrt 10.3.0.30`."""
        status = self._status
        counts = status.counts if status else None
        frames = f" of {counts.frames} frames ({counts.encoded} encoded, {counts.reused} still)" if counts else ""
        dropped = f", {status.dropped} dropped," if status and status.dropped else ""
        return f"{_windows(status.windows if status else 0)}{frames}{dropped} by {self._backend}"

    def watching(self, sink: Sink) -> Sink:
        """Return the sink, looked at on the way."""
        return _Watched(sink, self._look)

    def tell(self, status: Status) -> None:
        """Take the newest status, and say it if it is time to."""
        self._status = status
        now = self._clock()
        if self._terminal:
            self._line(self._progress(status))
        elif self._told is None or now - self._told >= _EVERY:
            self._told = now
            self.say(self._progress(status))

    def say(self, text: str) -> None:
        """Print a line."""
        self.end()
        self._file.write(f"{text}\n")
        self._file.flush()

    def end(self) -> None:
        """Leave the line that changes."""
        if self._width:
            self._file.write("\n")
            self._width = 0
        self._file.flush()

    def _progress(self, status: Status) -> str:
        counts = status.counts
        parts = [_windows(status.windows), f"{status.sampled} of {status.received} frames"]
        parts += [f"{status.dropped} dropped"] if status.dropped else []
        parts += [f"{counts.reused} still"] if counts and counts.reused else []
        parts += [f"latency {status.latency.median:.2f} s"] if status.latency else []
        return ", ".join(parts)

    def _look(self, emitted: Emitted) -> None:
        number = int(emitted.numbers[-1])
        if not emitted.merged.converged:
            self._once("converged", f"the window up to frame {number}: {NOT_CONVERGED}")
        # Not at each: a look at all tokens takes time that a small device does not have.
        now = self._clock()
        if self._looked is not None and now - self._looked < _EVERY:
            return
        self._looked = now
        if fault := nonfinite(emitted.merged.tokens):
            self._once("finite", f"the window up to frame {number}: of its tokens {fault}; those mean nothing")

    def _once(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.say(text)

    def _line(self, text: str) -> None:
        self._file.write(f"\r{text}{' ' * (self._width - len(text))}")
        self._file.flush()
        self._width = len(text)


class _Watched:
    """A sink whose windows are looked at first."""

    def __init__(self, sink: Sink, look: Callable[[Emitted], None]) -> None:
        self._sink, self._look = sink, look

    def write(self, emitted: Emitted, facts: Mapping[str, Any]) -> None:
        """See `Sink`."""
        self._look(emitted)
        self._sink.write(emitted, facts)


def _windows(count: int) -> str:
    return f"{count} window{'' if count == 1 else 's'}"
