"""The last frames of a stream, each encoded once: a window that slides over a tape of features."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.merge import Thresholds
from sttm_export.contracts.model import PixelSpec
from sttm_export.errors import UserError
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.preprocess import normalized, resized
from sttm_export.runtime.resident import Floats, Vision

Pixels = NDArray[np.uint8]
Label = tuple[int, float]
# Levels of grey by which two pixels can differ.
_MOST_TOLERANCE = 255


@dataclass(frozen=True)
class Counts:
    """What became of the frames of a stream since its beginning."""

    frames: int  # that were pushed
    encoded: int  # whose features the encoder made
    reused: int  # that were still, and took over the features before them


@dataclass(frozen=True)
class Emitted:
    """A window whose tokens were merged; n = frames in it."""

    merged: MergedTokens
    numbers: NDArray[np.int64]  # [n], number of each frame in its source
    timestamps: NDArray[np.float64]  # [n], seconds by the clock of the source
    counts: Counts


class Window:
    """Takes frames one by one and merges the last of them when asked. Not for several threads at a time.

    A step is what the encoder makes one set of features of: one frame, with some models two. A step is *still* when no
    pixel at the model's resolution differs by more than the tolerance from the step whose features it would take over.
    That step stays the same while features are reused, so that a slow drift does not add up.

    Args:
        vision: the graphs.
        pixels: the model's resolution and normalisation.
        size: frames of a window at most; None for as many as the merger takes.
        still_tolerance: levels of grey, 0 to 255, or None to encode every frame.

    Raises:
        UserError: a size or tolerance that is not possible.
    """

    def __init__(
        self, vision: Vision, pixels: PixelSpec, *, size: int | None = None, still_tolerance: int | None = 0
    ) -> None:
        self._vision, self._pixels = vision, pixels
        self.frames_per_step = vision.frames_per_step
        self.size = vision.most * self.frames_per_step if size is None else size
        self._check(still_tolerance)
        self._tolerance = still_tolerance
        self._frames = self._encoded = self._reused = 0  # encoded and reused are steps
        self._start = self._end = 0  # slots of the window's steps
        self._reference: Pixels | None = None  # the step whose features are reused
        self._waiting: list[tuple[int, Pixels]] = []  # slots and pixels of steps that the encoder has not seen yet
        self._still: list[int] = []  # slots that take over the features of the slot before
        # Number and time of each frame of the window's steps.
        self._steps: deque[list[Label]] = deque(maxlen=self.size // self.frames_per_step)
        # A step that is not whole yet.
        self._partial: list[Pixels] = []
        self._partial_labels: list[Label] = []

    @property
    def backend(self) -> str:
        """What runs the graphs."""
        return self._vision.backend

    @property
    def counts(self) -> Counts:
        """What became of the frames so far."""
        return Counts(self._frames, self._encoded * self.frames_per_step, self._reused * self.frames_per_step)

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the frames in the window, by the clock of their source."""
        return [time for step in self._labels() for _, time in step]

    def __len__(self) -> int:
        """Frames that are in the window."""
        return sum(map(len, self._labels()))

    def push(self, frame: Pixels, timestamp: float, number: int | None = None) -> None:
        """Add a frame; the oldest one leaves where there is no room. Features are made a batch at a time, or by `emit`.

        Args:
            frame: uint8 RGB [h, w, 3] of any size.
            timestamp: seconds, by any clock.
            number: of the frame in its source; None counts.

        Raises:
            UserError: a frame that is not uint8 RGB, or the encoder cannot be run.
        """
        self._partial.append(resized(frame, self._pixels))
        self._partial_labels.append((self._frames if number is None else number, timestamp))
        self._frames += 1
        if len(self._partial) < self.frames_per_step:
            return
        self._steps.append(self._partial_labels)
        step = np.stack(self._partial)
        self._partial, self._partial_labels = [], []
        self._add(step)

    def emit(self, thresholds: Thresholds) -> Emitted:
        """Merge what is in the window; it stays there. A step that lacks frames counts with its last one repeated.

        Raises:
            UserError: the window is empty, or a graph cannot be run.
        """
        merged = self._vision.merge(*self._made(), thresholds)
        labels = [label for step in self._labels() for label in step]
        numbers, times = zip(*labels, strict=True)
        return Emitted(merged, np.array(numbers, np.int64), np.array(times, np.float64), self.counts)

    def features(self) -> Floats:
        """Return a copy of the window's features, [T', N, C].

        Raises:
            UserError: as `emit`.
        """
        return self._vision.features(*self._made())

    def clear(self) -> None:
        """Forget every frame; counts go on."""
        self._start = self._end = 0
        self._reference = None
        for held in (self._waiting, self._still, self._steps, self._partial, self._partial_labels):
            held.clear()

    def _add(self, step: Pixels) -> None:
        self._make_room()
        slot = self._end
        self._end += 1
        if self._is_still(step):
            self._still.append(slot)
            self._reused += 1
        else:
            self._reference = step
            self._waiting.append((slot, step))
            self._encoded += 1
            if len(self._waiting) == self._vision.batch:
                self._flush()
        self._start = max(self._start, self._end - self.size // self.frames_per_step)

    def _make_room(self) -> None:
        """Move the window to the front of the tape where a batch, or the merger's T slots, would reach over its end."""
        vision = self._vision
        if self._end + vision.batch <= vision.slots and self._start + 1 + vision.most <= vision.slots:
            return
        if self._still or (self._waiting and self._waiting[0][0] < self._start):
            # Made now, of slots that do not move along.
            self._flush()
        vision.move(self._start, self._end - self._start)
        self._waiting = [(slot - self._start, step) for slot, step in self._waiting]
        self._start, self._end = 0, self._end - self._start

    def _is_still(self, step: Pixels) -> bool:
        if self._tolerance is None or self._reference is None:
            return False
        if self._tolerance == 0:
            return np.array_equal(step, self._reference)
        difference = np.maximum(step, self._reference) - np.minimum(step, self._reference)
        return bool(difference.max() <= self._tolerance)

    def _flush(self) -> None:
        """Let every slot of the window have its features."""
        if self._waiting:
            slots = [slot for slot, _ in self._waiting]
            self._vision.encode(self._values([step for _, step in self._waiting]), slots)
        for slot in self._still:
            self._vision.copy(slot - 1, slot)
        self._waiting, self._still = [], []

    def _labels(self) -> list[list[Label]]:
        """Frames of the window by steps; one that is not whole counts."""
        steps = [*self._steps, self._partial_labels] if self._partial else list(self._steps)
        return steps[-(self.size // self.frames_per_step) :]

    def _made(self) -> tuple[int, int]:
        """See that every step of the window has features; return its first slot and how many there are."""
        count = len(self._labels())
        if count == 0:
            raise UserError("There is no frame in the window; push one before asking for its tokens.")
        if not self._partial:
            self._flush()
            return self._end - count, count
        # As `pixel_values` does at the end of a clip. What is made for it is not kept: its other frames may come yet.
        self._make_room()
        self._flush()
        missing = self.frames_per_step - len(self._partial)
        step = np.stack(self._partial + self._partial[-1:] * missing)
        self._vision.encode(self._values([step]), [self._end])
        return self._end + 1 - count, count

    def _values(self, steps: list[Pixels]) -> NDArray[np.float32]:
        return np.stack([normalized(frame, self._pixels) for step in steps for frame in step])

    def _check(self, still_tolerance: int | None) -> None:
        each, most = self.frames_per_step, self._vision.most * self.frames_per_step
        if not each <= self.size <= most or self.size % each:
            steps = f", a multiple of {each}" if each > 1 else ""
            raise UserError(f"A window of {self.size} frames is not possible; give {each} to {most}{steps}.")
        if still_tolerance is not None and not 0 <= still_tolerance <= _MOST_TOLERANCE:
            raise UserError(f"A still tolerance of {still_tolerance} is not possible; give levels of grey, 0 to 255.")
