"""What is counted of a stream that is followed, in memory that does not grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sttm_export.streams.window import Counts

# Windows over which latencies are summed up.
RECENT = 1000


@dataclass(frozen=True)
class Latency:
    """Seconds from the moment a window's newest frame was received to the moment its record was written.

    All but the last are over the last 1000 windows.
    """

    last: float
    median: float
    p95: float
    max: float


class Latencies:
    """The latencies of the last windows."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        """Note one window."""
        self._recent.append(seconds)

    @property
    def latency(self) -> Latency | None:
        """Their figures; each percentile is one of the latencies (nearest rank). None before the first window."""
        if not self._recent:
            return None
        ordered = sorted(self._recent)
        rank = [ordered[max(0, -(-len(ordered) * share // 100) - 1)] for share in (50, 95)]
        return Latency(self._recent[-1], rank[0], rank[1], ordered[-1])


@dataclass(frozen=True)
class Status:
    """How far a stream has been followed, since the beginning."""

    seconds: float  # that it has been followed
    received: int  # frames that the source gave
    sampled: int  # of those, the ones that are at a moment of the rate
    dropped: int  # of those, dropped because a source that cannot wait was faster
    waiting: int  # of those, not yet looked at
    windows: int  # records written
    counts: Counts | None  # steps in windows, encoded and reused; None before the first window
    latency: Latency | None  # None before the first window
    source: Mapping[str, int]  # what the source counts itself, such as `reopened`
