"""Sources, windows and sinks for the tests of streams, without a model: what they were given is known."""

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from sttm_export.contracts.merge import Thresholds
from sttm_export.runtime.frame import Frame
from sttm_export.streams.runner import Plan

THRESHOLDS = Thresholds(0.85, 0.65, "given")


def plan(every, **options):
    """A plan with thresholds that nothing looks at."""
    return Plan(every, THRESHOLDS, **options)


def small_frame(number, time_=None, size=(2, 3)):
    """A frame that holds its number."""
    return Frame(number, float(number if time_ is None else time_), np.full((*size, 3), number % 256, np.uint8))


class ListSource:
    """Frames that lie ready; an exception among them is raised in its place, a function is called."""

    def __init__(self, items, waits=True, counters=None):
        self.items, self.waits, self.counters = items, waits, counters or {}
        self.closed, self.thread = threading.Event(), None

    def frames(self):
        self.thread = threading.current_thread()
        for item in self.items:
            if self.closed.is_set():
                return
            if isinstance(item, BaseException):
                raise item
            if callable(item):
                item()
            else:
                yield item

    def close(self):
        self.closed.set()


def counted(count, fps=1.0):
    """Frames 0 to count - 1."""
    return [small_frame(number, number / fps) for number in range(count)]


class EndlessSource(ListSource):
    """A camera that gives frames until it is closed, and then waits no longer."""

    def __init__(self, every=0.001, **options):
        super().__init__([], waits=False, **options)
        self.every = every

    def frames(self):
        self.thread, number = threading.current_thread(), 0
        while not self.closed.wait(self.every):
            yield small_frame(number)
            number += 1


class PlainWindow:
    """Keeps numbers and times of its newest frames; `hold` is called at each push."""

    def __init__(self, size=8, frames_per_step=1, hold=lambda: None):
        self.size, self.frames_per_step, self.hold = size, frames_per_step, hold
        self.frames = []
        self.pushed = 0

    def push(self, frame, timestamp, number=None):
        self.hold()
        self.pushed += 1
        self.frames = [*self.frames, (number, timestamp, int(frame[0, 0, 0]))][-self.size :]

    def emit(self, thresholds):
        assert thresholds is THRESHOLDS
        numbers, times, values = zip(*self.frames, strict=True)
        counts = SimpleNamespace(frames=self.pushed, encoded=self.pushed, reused=0)
        return SimpleNamespace(
            numbers=np.array(numbers), timestamps=np.array(times), values=np.array(values), counts=counts, merged=None
        )


@dataclass
class ListSink:
    """Keeps what it was given; the window of number `fails` is not written."""

    fails: int | None = None
    error: BaseException = field(default_factory=lambda: OSError(28, "No space left on device"))
    hold: object = None
    written: list = field(default_factory=list)
    facts: list = field(default_factory=list)

    def write(self, emitted, facts):
        if self.hold:
            self.hold()
        if self.fails is not None and len(self.written) == self.fails:
            raise self.error
        self.written.append(emitted)
        self.facts.append(facts)

    @property
    def numbers(self):
        return [emitted.numbers.tolist() for emitted in self.written]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        return False


def reader_threads():
    """Threads that read a source."""
    return [thread for thread in threading.enumerate() if thread.name == "sttm-export reader"]


def wait_for(condition, seconds=10.0):
    """Until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
