"""One clock for a source that breaks off and starts again, each time with a clock of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds that a source may be ahead of this machine from one frame to the next: frames that the network held back
# come all at once. What goes further is another clock, not a later frame.
_AHEAD = 10.0


class StreamClock:
    """Seconds since the first frame that never fall: by the source's clock, by this machine's where that breaks.

    Args:
        clock: of this machine, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._time: float | None = None  # of the newest frame
        self._moment = 0.0  # when it came
        self._pts: float | None = None  # its time by the source
        self._base: tuple[float, float] | None = None  # (time, pts) of the frame that others are counted from

    def stamp(self, pts: float | None) -> float:
        """Time of the next frame.

        Args:
            pts: its presentation time in seconds by the source; None where the source has no clock.
        """
        now = self._clock()
        if self._time is None:
            time_ = 0.0
            self._base = None if pts is None else (time_, pts)
        elif self._base is not None and pts is not None and self._goes_on(pts, now - self._moment):
            time_ = self._base[0] + (pts - self._base[1])
        else:
            time_ = self._time + max(0.0, now - self._moment)
            self._base = None if pts is None else (time_, pts)
        self._time, self._moment, self._pts = time_, now, pts
        return time_

    def restart(self) -> None:
        """Say that the source was opened anew: its clock may be another."""
        self._base = None

    def _goes_on(self, pts: float, elapsed: float) -> bool:
        return self._pts is not None and 0 < pts - self._pts <= elapsed + _AHEAD
