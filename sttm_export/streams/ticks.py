"""Which frames of a stream are looked at: the first one at or after each of the moments start + k / fps."""

from __future__ import annotations

import math

# Containers with a clock of milliseconds round: a frame is at a moment if it is no more than this before it.
_ROUNDING = 1e-3


class Ticks:
    """Chooses frames by the source's own clock, whatever it delivers late, doubles or leaves out.

    Args:
        fps: frames to take a second; None takes all.
    """

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._start = self._last = -math.inf
        self._due = 0

    def takes(self, time: float) -> bool:
        """Whether the frame at this time, in seconds, is one of them. After a gap the moments in it are past.

        A clock that goes back starts the moments anew.
        """
        if self._fps is None:
            return True
        if time < self._last or self._start == -math.inf:
            self._start, self._due = time, 0
        self._last = time
        rounding = min(_ROUNDING, 0.25 / self._fps)
        reached = math.floor((time - self._start + rounding) * self._fps)
        if reached < self._due:
            return False
        self._due = reached + 1
        return True
