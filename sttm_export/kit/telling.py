"""Where the kit says how far a stream is, without a library: a line that changes, or in a log one a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

# Seconds between two lines of a log.
_EVERY = 60.0


class Telling:
    """A `streams.following.Display` on standard error.

    Args:
        file: where to; None for standard error.
        clock: gives seconds.
    """

    def __init__(self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = file or sys.stderr, clock
        self._terminal = self._file.isatty()
        self._shown: float | None = None
        self._width = 0

    def __enter__(self) -> Telling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        self._file.flush()

    def show(self, line: str) -> None:
        """Show the newest state in place of the one before; in a log if enough time has passed."""
        if self._terminal:
            self._file.write(f"\r{line}{' ' * (self._width - len(line))}")
            self._file.flush()
            self._width = len(line)
            return
        now = self._clock()
        if self._shown is None or now - self._shown >= _EVERY:
            self._shown = now
            self.say(line)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._leave()
        self._file.write(f"{line}\n")
        self._file.flush()

    def _leave(self) -> None:
        """Go on behind the line that changes."""
        if self._width:
            self._file.write("\n")
            self._width = 0
