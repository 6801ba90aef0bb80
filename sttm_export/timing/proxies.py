"""Stand-ins around sessions of a language model: one notes times, one has room for more tokens than its buffers."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from sttm_export.contracts.graph import GraphSpec
from sttm_export.runtime.session import Array, Arrays, StatefulSession

T = TypeVar("T")


class Laps:
    """Milliseconds by the parts of a run."""

    def __init__(self) -> None:
        self._taken: defaultdict[str, float] = defaultdict(float)

    def add(self, part: str, function: Callable[[], T]) -> T:
        """Call a function and add what it took to a part."""
        started = time.perf_counter()
        made = function()
        self._taken[part] += (time.perf_counter() - started) * 1e3
        return made

    def take(self) -> dict[str, float]:
        """Return what was taken since the last time."""
        taken, self._taken = dict(self._taken), defaultdict(float)
        return taken


class Around:
    """A session that does what the one inside of it does."""

    def __init__(self, session: StatefulSession) -> None:
        self._session = session

    @property
    def graph(self) -> GraphSpec:
        """See `Session`."""
        return self._session.graph

    @property
    def backend(self) -> str:
        """See `Session`."""
        return self._session.backend

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """See `Session`."""
        return self._session.run(inputs)

    def reset(self) -> None:
        """See `StatefulSession`."""
        self._session.reset()

    def state(self) -> Arrays:
        """See `StatefulSession`."""
        return self._session.state()

    def restore(self, state: Mapping[str, Array]) -> None:
        """See `StatefulSession`."""
        self._session.restore(state)


class Timed(Around):
    """A session whose runs are noted as a part."""

    def __init__(self, session: StatefulSession, laps: Laps, part: str) -> None:
        super().__init__(session)
        self._laps, self._part = laps, part

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run, and note what it took."""
        return self._laps.add(self._part, lambda: self._session.run(inputs))


class Roomy(Around):
    """A group of layers that takes more rows than its buffers have slots: rows are written again from the front.

    Keys and values are then not those of the prompt, and what comes out means nothing. The work of a call is the same:
    a call reads its whole buffer, whichever slots are filled.

    Args:
        session: a loaded group.
        slots: that it claims to have.
    """

    def __init__(self, session: StatefulSession, slots: int) -> None:
        super().__init__(session)
        graph, kept = session.graph, {tensor.name for tensor in session.graph.kept}
        self._slots = graph.kept[0].shape[1]
        inputs = tuple(
            dataclasses.replace(tensor, shape=(tensor.shape[0], slots, *tensor.shape[2:]))
            if tensor.name in kept
            else tensor
            for tensor in graph.inputs
        )
        self._graph = dataclasses.replace(graph, inputs=inputs)

    @property
    def graph(self) -> GraphSpec:
        """The declaration, with the slots that are claimed."""
        return self._graph

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run with the rows where there are slots."""
        slots = np.asarray(inputs["slots"])
        first = int(slots[0]) % max(self._slots - len(slots) + 1, 1)
        return self._session.run({**inputs, "slots": (slots - slots[0] + first).astype(np.int32)})
