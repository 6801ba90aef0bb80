"""Vision encoder and token merger loaded together, and features that stay where the graphs run.

Features of many steps lie one behind the other in one piece of memory, the *tape*. Each batch of the encoder writes
into its slots of it, and the merger reads T slots in a row. Nothing of that crosses to the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.errors import UserError
from sttm_export.runtime.memory import ALIGNED, Memory
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.pipeline import merge_features, merger_scalars
from sttm_export.runtime.session import Array, PlacedSession

FEATURES = "features"
"""Output of the encoder and input of the merger that lie on the tape."""
Floats = NDArray[np.floating]
Below = Callable[[Floats], Floats]
"""Features [T', N, C] → what merges, where layers of a language model lie between: hidden states [T', N, C]."""
# Steps that the tape takes beyond those of a window before they are moved to its front.
_BEYOND = 32


class Vision:
    """The two graphs of a bundle's vision side over one tape. Not for several threads at a time.

    Args:
        encoder: runs the vision encoder.
        merger: runs the token merger.
        memory: where both run; with a GPU, both in its stream.
        merge: constants of the merger.
        below: what lies between the two where tokens merge inside the language model; it runs on the host's copy.
        fixed: let both graphs have the same addresses in every call, for a price of copies: a CUDA graph holds its
            addresses.

    Raises:
        UserError: not so much memory.
    """

    def __init__(
        self,
        encoder: PlacedSession,
        merger: PlacedSession,
        memory: Memory,
        merge: MergeSpec,
        *,
        below: Below | None = None,
        fixed: bool = False,
    ) -> None:
        self._encoder, self._merger, self._memory, self._merge, self._below = encoder, merger, memory, merge, below
        pixels, features = encoder.graph.inputs[0], encoder.graph.outputs[0]
        self.batch = features.shape[0]  # steps of one call of the encoder
        self.frames_per_step = pixels.shape[0] // self.batch
        self.slots = merge.frames + self.batch + min(merge.frames, _BEYOND)  # steps that the tape holds
        self._shape, self._dtype = features.shape[1:], np.dtype(features.dtype)
        self._step = math.prod(self._shape) * self._dtype.itemsize
        self._fixed = fixed or self._step % ALIGNED != 0
        self._tape = memory.allocate(self._step * self.slots, "features of the window")
        self._batch_place = memory.allocate(self._step * self.batch, "features of a batch")
        self._window_place = memory.allocate(self._step * merge.frames, "the merger's input") if self._fixed else 0

    @property
    def backend(self) -> str:
        """What runs the graphs."""
        return self._encoder.backend

    @property
    def most(self) -> int:
        """T, steps that the merger takes at most."""
        return self._merge.frames

    def warm_up(self, thresholds: Thresholds) -> bool:
        """Run both graphs once before the first frame counts, as what runs them may compile kernels or capture them.

        Returns:
            Whether the encoder gave one step the same features, bit by bit, in every place of a batch. Where it did
            not, a window may differ in last bits from a clip of the same frames, which are batched otherwise.

        Raises:
            UserError: a graph cannot be run.
        """
        pixels = self._encoder.graph.inputs[0]
        noise = np.random.default_rng(0).standard_normal((self.frames_per_step, *pixels.shape[1:]), np.float32)
        # Beside itself, as a batch that is not full repeats its last step.
        self._encoder.run_placed({pixels.name: self._batched(noise)}, {FEATURES: self._batch_place})
        made = self._memory.read(self._batch_place, (self.batch, *self._shape), self._dtype)
        self._memory.zero(self._at(0), self._step * self.most)
        self.merge(0, 1, thresholds)
        return bool((made == made[:1]).all())

    def encode(self, values: NDArray[np.floating], slots: Sequence[int]) -> None:
        """Run the encoder on at most a batch of steps; it may leave anything in the slots behind the last of them.

        Args:
            values: [k · frames_per_step, 3, H, W] pixel values, k <= `batch`.
            slots: k slots of the tape, ascending.
        """
        part, name, first = self._batched(values), self._encoder.graph.inputs[0].name, slots[0]
        direct = list(slots) == list(range(first, first + len(slots))) and not self._fixed
        place = self._at(first) if direct and first + self.batch <= self.slots else self._batch_place
        self._encoder.run_placed({name: part}, {FEATURES: place})
        if place == self._batch_place:
            for number, slot in enumerate(slots):
                self._memory.copy(self._at(slot), place + number * self._step, self._step)

    def copy(self, source: int, slot: int) -> None:
        """Let a slot have the features of another."""
        self._memory.copy(self._at(slot), self._at(source), self._step)

    def move(self, source: int, count: int) -> None:
        """Move slots to the front of the tape, `source` slots at a time: such ranges never overlap."""
        for start in range(0, count, source):
            size = self._step * min(source, count - start)
            self._memory.copy(self._at(start), self._at(source + start), size)

    def features(self, first: int, count: int) -> Floats:
        """Return a copy of the features of `count` slots, [count, N, C], on the host."""
        read: Floats = self._memory.read(self._at(first), (count, *self._shape), self._dtype)  # type: ignore[assignment]
        return read

    def merge_given(self, hidden: Floats, thresholds: Thresholds) -> MergedTokens:
        """Merge hidden states [T', N, C] of the host; for a bundle whose tokens merge inside the language model.

        Raises:
            UserError: another shape, or the graph cannot be run.
        """
        spatial, temporal = thresholds.spatial, thresholds.temporal
        return merge_features(self._merger, self._merge, hidden, len(hidden), spatial, temporal)

    def merge(self, first: int, count: int, thresholds: Thresholds) -> MergedTokens:
        """Merge `count` slots from one on; T slots must lie from there on, and those behind `count` are set to zeros.

        Raises:
            UserError: a graph cannot be run.
        """
        if not 1 <= count <= self.most or first + self.most > self.slots:
            raise UserError(f"Cannot merge {count} steps; give a number from 1 to {self.most}.")
        if self._below is not None:
            return self.merge_given(self._below(self.features(first, count)), thresholds)
        self._memory.zero(self._at(first + count), self._step * (self.most - count))
        place = self._at(first)
        if self._fixed:
            place = self._window_place
            self._memory.copy(place, self._at(first), self._step * self.most)
        scalars = merger_scalars(count, thresholds.spatial, thresholds.temporal)
        outputs = self._merger.run_placed(scalars, {FEATURES: place})
        return MergedTokens.from_outputs(outputs, count, self._merge)

    def _batched(self, values: NDArray[np.floating]) -> Array:
        """Fill a batch up with its last step, in the encoder's dtype."""
        pixels = self._encoder.graph.inputs[0]
        missing = pixels.shape[0] - len(values)
        filling = np.tile(values[-self.frames_per_step :], (missing // self.frames_per_step, 1, 1, 1))
        return np.concatenate([values, filling]).astype(pixels.dtype)

    def _at(self, slot: int) -> int:
        return self._tape + slot * self._step
