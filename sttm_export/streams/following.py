"""What is said of a source that is followed: how far it is, what is unusual, how it ended, and what came of it."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from sttm_export.errors import UserError
from sttm_export.runtime.finiteness import nonfinite
from sttm_export.runtime.merged import NOT_CONVERGED

if TYPE_CHECKING:
    from sttm_export.streams.runner import Sink
    from sttm_export.streams.status import Status
    from sttm_export.streams.window import Emitted

PLACE_MATTERS = (
    "what runs the encoder gives a frame features that differ in last bits with its place in a batch, so that windows "
    "may differ in last bits from a clip of the same frames"
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Seconds between two looks at all tokens of a window, which take time that a window may not have.
_LOOK_EVERY = 60.0
# Counters of a source that are shown where they are not 0.
_TROUBLES = ("reopened", "corrupt")


class Display(Protocol):
    """Where it is said."""

    def show(self, line: str) -> None:
        """Show the newest state in place of the one before."""
        ...

    def say(self, line: str) -> None:
        """Print a line that stays."""
        ...


class Following:
    """Keeps the newest status of a source, and shows it.

    Args:
        shown: the source, as it may be shown.
        display: where it is shown.
        clock: gives seconds.
    """

    def __init__(self, shown: str, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._shown, self._display, self._clock = shown, display, clock
        self._status: Status | None = None
        self._said: set[str] = set()
        self._looked: float | None = None

    @property
    def windows(self) -> int:
        """Windows that are written."""
        return self._status.windows if self._status else 0

    @property
    def written(self) -> str:
        """A sentence to put behind another one: how many windows were written, if any were."""
        were = "was" if self.windows == 1 else "were"
        return f" {count_of(self.windows, 'window')} {were} written before, each whole." if self.windows else ""

    @property
    def summary(self) -> str:
        """One line of all figures."""
        if self._status is None:
            return "0 windows"
        return f"{self._figures(self._status)}, in {in_hours(self._status.seconds)} of {self._shown}"

    def tell(self, status: Status) -> None:
        """Take the newest status and show it."""
        self._status = status
        self._display.show(f"{in_hours(status.seconds)}  {self._figures(status)}")

    def watching(self, sink: Sink) -> Sink:
        """Return the sink; what it is given is looked at first."""
        return _Watched(sink, self._look)

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """However the block ends, what is written is said; a full disk in one sentence."""
        try:
            yield
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{self.summary}; each window that was written is whole") from None
        except UserError as error:
            raise UserError(f"{error}{self.written}") from error
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise UserError(
                f"Window {self.windows + 1} cannot be written: {error.strerror}; free some space or choose another "
                f"--output.{self.written}"
            ) from error

    def _figures(self, status: Status) -> str:
        parts, counts, latency = [count_of(status.windows, "window")], status.counts, status.latency
        if counts:
            parts.append(f"{count_of(counts.encoded, 'frame')} encoded")
            parts.append(f"{counts.reused} reused")
        parts.append(f"{status.dropped} dropped")
        parts += [f"{status.source[name]} {name}" for name in _TROUBLES if status.source.get(name)]
        if latency:
            parts.append(f"latency {latency.median:.2f} s (95 % {latency.p95:.2f}, most {latency.max:.2f})")
        return ", ".join(parts)

    def _look(self, emitted: Emitted) -> None:
        number = int(emitted.numbers[-1])
        if not emitted.merged.converged:
            self._once("converged", f"the window up to frame {number}: {NOT_CONVERGED}")
        now = self._clock()
        if self._looked is not None and now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        if fault := nonfinite(emitted.merged.tokens):
            self._once("finite", f"the window up to frame {number}, its tokens: {fault}; those mean nothing")

    def _once(self, kind: str, line: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self._display.say(line)


class _Watched:
    """A sink whose windows are looked at first."""

    def __init__(self, sink: Sink, look: Callable[[Emitted], None]) -> None:
        self._sink, self._look = sink, look

    def write(self, emitted: Emitted, facts: Mapping[str, Any]) -> None:
        """See `Sink`."""
        self._look(emitted)
        self._sink.write(emitted, facts)


def count_of(number: int, what: str) -> str:
    """`1 window`, `2 windows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def in_hours(seconds: float) -> str:
    """`0:01:23`, `49:00:00`."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
