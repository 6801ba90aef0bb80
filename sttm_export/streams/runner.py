"""Following a source: a thread reads it, this one pushes its frames into the window and hands each merge to a sink."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sttm_export.contracts.merge import Thresholds
from sttm_export.errors import UserError
from sttm_export.runtime.frame import Frame
from sttm_export.streams.queue import FrameQueue
from sttm_export.streams.source import Source
from sttm_export.streams.status import Latencies, Status
from sttm_export.streams.ticks import Ticks

if TYPE_CHECKING:
    from sttm_export.streams.window import Counts, Emitted, Window

# Seconds after which the status is told where no window was finished in the meantime.
_TELL_EVERY = 1.0


class Sink(Protocol):
    """Takes what was merged."""

    def write(self, emitted: Emitted, facts: Mapping[str, Any]) -> None:
        """Write one window, with what is known about it and the source, whole or not at all."""
        ...


@dataclass(frozen=True)
class Plan:
    """How a source is followed.

    Raises:
        UserError: a number that is not possible.
    """

    every: int  # a window is merged and written each time so many frames were taken
    thresholds: Thresholds  # of merging; a bundle with the policy `budget` solves its own
    fps: float | None = None  # frames to take a second; None takes all
    queue: int = 8  # frames that may wait
    most_windows: int | None = None  # end after so many; None goes on to the end of the source

    def __post_init__(self) -> None:
        numbers = (("every", self.every), ("queue", self.queue), ("most_windows", self.most_windows))
        for name, number in numbers:
            if number is not None and number < 1:
                raise UserError(f"{name} = {number} is not possible; give a whole number from 1.")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise UserError(f"{self.fps:g} frames a second are not possible; give a number above 0.")


def follow(
    source: Source,
    window: Window,
    sink: Sink,
    plan: Plan,
    tell: Callable[[Status], None] = lambda status: None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Status:
    """Push the frames of a source into a window, merge it every `plan.every` frames, and write what comes out.

    Where the source ends, or fails for good, what came before is written first, as a last window if frames came since
    the one before. An interruption and an error of the sink end it at once. In every case the source is closed and its
    thread has ended, and the last status was told, when this returns or raises.

    Args:
        source: of the frames; a thread of its own reads it, and drops the oldest frames that wait if it cannot.
        window: takes them.
        sink: takes what was merged. Facts: `received`, `sampled` and `dropped` frames until then, `latency` in
            seconds from when the newest frame was received to when it was merged, and the counters of the source.
        plan: how often.
        tell: is called in this thread after every window, once a second otherwise, and at the end.
        clock: gives seconds, for latencies.

    Returns:
        The last status.

    Raises:
        UserError: `plan.every` does not make whole steps, or what the source or sink cannot do.
        Exception: whatever source, window or sink raised.
    """
    step = window.frames_per_step
    if plan.every % step:
        raise UserError(f"every = {plan.every} frames are no whole steps of {step} frames; give a multiple of {step}.")
    run = _Run(source, window, sink, plan, tell, clock)
    try:
        run.reader.start()
        run.loop()
    finally:
        run.stop()
        tell(run.status())
    return run.status()


class _Received(NamedTuple):
    frame: Frame
    moment: float  # when it was received, by the clock


class _Reader(threading.Thread):
    """Reads the source into the queue; whatever it raises comes out of the queue."""

    def __init__(
        self, source: Source, queue: FrameQueue[_Received], fps: float | None, clock: Callable[[], float]
    ) -> None:
        super().__init__(name="sttm-export reader", daemon=True)
        self._source, self._queue, self._ticks, self._clock = source, queue, Ticks(fps), clock
        self.received = self.sampled = 0

    def run(self) -> None:
        try:
            for frame in self._source.frames():
                self.received += 1
                if not self._ticks.takes(frame.time):
                    continue
                if not self._queue.put(_Received(frame, self._clock())):
                    break
                self.sampled += 1
        except BaseException as error:  # of whatever kind, it is raised again where it can be handled
            self._queue.finish(error)
        else:
            self._queue.finish()


class _Run:
    """One source that is followed."""

    def __init__(
        self,
        source: Source,
        window: Window,
        sink: Sink,
        plan: Plan,
        tell: Callable[[Status], None],
        clock: Callable[[], float],
    ) -> None:
        self._source, self._window, self._sink, self._plan = source, window, sink, plan
        self._tell, self._clock = tell, clock
        self._start = self._told = clock()
        self._queue: FrameQueue[_Received] = FrameQueue(plan.queue, waits=source.waits)
        self.reader = _Reader(source, self._queue, plan.fps, clock)
        self._latencies = Latencies()
        self._windows = self._since = 0
        self._newest = self._start
        self._counts: Counts | None = None

    def loop(self) -> None:
        """Work until the end; what the reader met comes out here, after the frames before it."""
        while self._plan.most_windows is None or self._windows < self._plan.most_windows:
            received = self._queue.get(_TELL_EVERY)
            if received is not None:
                self._push(received)
            elif self._queue.finished:
                self._end()
                return
            if self._clock() - self._told >= _TELL_EVERY:
                self._say()

    def stop(self) -> None:
        """Close the source and wait for its thread."""
        self._source.close()
        self._queue.close()
        if self.reader.ident is not None:
            self.reader.join()

    def status(self) -> Status:
        """How far it has come."""
        return Status(
            seconds=self._clock() - self._start,
            received=self.reader.received,
            sampled=self.reader.sampled,
            dropped=self._queue.dropped,
            waiting=len(self._queue),
            windows=self._windows,
            counts=self._counts,
            latency=self._latencies.latency,
            source=dict(self._source.counters),
        )

    def _push(self, received: _Received) -> None:
        frame = received.frame
        self._window.push(frame.rgb, frame.time, frame.number)
        self._newest = received.moment
        self._since += 1
        if self._since == self._plan.every:
            self._emit()

    def _end(self) -> None:
        if self._since:
            self._emit()
        if self._queue.error is not None:
            raise self._queue.error

    def _emit(self) -> None:
        emitted = self._window.emit(self._plan.thresholds)
        self._counts, self._since = emitted.counts, 0
        facts = {
            "received": self.reader.received,
            "sampled": self.reader.sampled,
            "dropped": self._queue.dropped,
            "latency": self._clock() - self._newest,
            **self._source.counters,
        }
        self._sink.write(emitted, facts)
        self._windows += 1
        self._latencies.add(self._clock() - self._newest)
        self._say()

    def _say(self) -> None:
        self._told = self._clock()
        self._tell(self.status())
