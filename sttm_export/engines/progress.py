"""One fraction out of TensorRT's nested build phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OnProgress = Callable[[str, float], None]
"""Called with (what is being done, fraction in [0, 1])."""


def quiet(_phase: str, _fraction: float) -> None:
    """Nobody wants to know."""


def part_of(on_progress: OnProgress, place: int, parts: int) -> OnProgress:
    """Return what tells the progress of one part as that of the whole, parts being of equal length."""
    return lambda phase, fraction: on_progress(phase, (place + fraction) / parts)


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """Follows the calls of `IProgressMonitor` and reports (phase, fraction in [0, 1]).

    A phase counts as a part of its parent's current step. The fraction never falls: TensorRT opens several phases in
    one step of their parent.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._open: dict[str, _Phase] = {}
        self._fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._open[name] = _Phase(parent, max(steps, 1))
        self._report(name)

    def step(self, name: str, step: int) -> None:
        """A step of a phase is complete."""
        if name in self._open:
            self._open[name].done = min(step + 1, self._open[name].steps)
        self._report(name)

    def finish(self, name: str) -> None:
        """A phase ends; the outermost one ends the build."""
        phase = self._open.pop(name, None)
        if phase is not None and phase.parent is None:
            self._fraction = 1.0
        self._report(name)

    def _report(self, name: str) -> None:
        self._fraction = max(self._fraction, self._overall())
        self._on_progress(name, self._fraction)

    def _overall(self) -> float:
        start, width = 0.0, 1.0
        level = self._child_of(None)
        while level is not None:
            phase = self._open[level]
            width /= phase.steps
            # A complete phase stays open for a moment; its last step must not count twice.
            start += phase.done * width
            level = self._child_of(level) if phase.done < phase.steps else None
        return min(start, 1.0)

    def _child_of(self, parent: str | None) -> str | None:
        children = [name for name, phase in self._open.items() if phase.parent == parent]
        return children[-1] if children else None
