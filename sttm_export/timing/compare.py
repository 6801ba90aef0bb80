"""Two results against each other: what differs beyond noise, what cannot be compared, and what became slower.

The rule: a difference is beyond noise where the middle halves of the runs (from quartile to quartile) do not overlap
and the medians are at least `LEAST_PERCENT` apart. Fewer than `FEWEST` runs have no spread that tells anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sttm_export.errors import UserError, ValidationMiss
from sttm_export.timing.result import Figure, Result, Times

FEWEST = 5
LEAST_PERCENT = 3.0
Verdict = Literal["slower", "faster", "same", "too few runs", "other work"]

# What has to be alike, by the words for it. Versions, engines and providers may differ: to compare them is what for.
_ABOUT: dict[str, str] = {
    "model": "model",
    "precision": "precision",
    "weights": "weights of the decoder",
    "frames": "frames of the bundle",
    "cells": "cells a frame",
    "channels": "channels",
    "batch": "batch of the encoder",
    "budget": "budget",
    "policy": "policy",
    "merge_layer": "merge layer",
    "layers": "layers of the decoder",
    "chunk": "rows of a chunk",
    "steps": "frames of the clip",
}
_MACHINE = {
    "processor": "processor",
    "cores": "cores",
    "gpu": "GPU",
    "board": "board",
    "power_mode": "power mode",
}


@dataclass(frozen=True)
class Row:
    """A figure in both results."""

    key: str
    first: Times
    second: Times
    verdict: Verdict

    @property
    def ratio(self) -> float:
        """Median of the second over that of the first."""
        return self.second.median / max(self.first.median, 1e-12)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that the ratio is between quartiles."""
        first = max(self.first.upper, 1e-12), max(self.first.lower, 1e-12)
        return self.second.lower / first[0], self.second.upper / first[1]


@dataclass(frozen=True)
class Comparison:
    """What two results say of each other."""

    rows: tuple[Row, ...]
    differing: tuple[str, ...]  # what has to be alike and is not, such as `budget (0.5 and 0.3)`
    only_first: tuple[str, ...]  # figures that the second lacks
    only_second: tuple[str, ...]
    others: tuple[str, ...]  # what may differ and does, such as `onnxruntime (1.30 and 1.32)`

    @property
    def sentence(self) -> str:
        """Why ratios say nothing about a change of speed; empty where they do."""
        if not self.differing:
            return ""
        return f"The two results are not comparable, as they differ in {_listed(self.differing)}."


def compare(first: Result, second: Result) -> Comparison:
    """Hold each figure of the second result against the same one of the first."""
    ours = {figure.key: figure for figure in first.figures}
    theirs = {figure.key: figure for figure in second.figures}
    return Comparison(
        rows=tuple(_row(ours[key], theirs[key]) for key in ours if key in theirs),
        differing=tuple(_differing(first, second)),
        only_first=tuple(key for key in ours if key not in theirs),
        only_second=tuple(key for key in theirs if key not in ours),
        others=tuple(_others(first, second)),
    )


def judge(first: Times, second: Times) -> Verdict:
    """Say whether the second times differ from the first beyond noise."""
    if min(first.runs, second.runs) < FEWEST:
        return "too few runs"
    slower, faster = second.lower > first.upper, second.upper < first.lower
    apart = abs(second.median - first.median) >= first.median * LEAST_PERCENT / 100
    if not apart or not (slower or faster):
        return "same"
    return "slower" if slower else "faster"


def check_slower(found: Comparison, percent: float) -> None:
    """Say which figures became slower, beyond noise, by more than so many percent.

    Raises:
        ValidationMiss: some did.
        UserError: the results cannot tell: they are not comparable, a figure is missing, or has too few runs.
    """
    if found.sentence:
        raise UserError(f"{found.sentence} Give --fail-above two results of the same bundle on the same machine.")
    if found.only_first:
        raise UserError(
            f"The second result lacks {_listed(found.only_first)}, so nothing can be said of it; measure both in the "
            "same way."
        )
    unknown = [row.key for row in found.rows if row.verdict in {"too few runs", "other work"}]
    if unknown:
        raise UserError(
            f"Nothing can be said of {_listed(unknown)}: fewer than {FEWEST} runs, or other work in the two results; "
            "measure both in the same way, with more --runs and --seconds."
        )
    slower = [row for row in found.rows if row.verdict == "slower" and row.ratio > 1 + percent / 100]
    if slower:
        told = _listed([f"{row.key} ({100 * (row.ratio - 1):+.1f} %)" for row in slower])
        raise ValidationMiss(f"Slower by more than {percent:g} % and beyond noise: {told}.")


def _row(first: Figure, second: Figure) -> Row:
    alike = (first.clock, first.work) == (second.clock, second.work)
    return Row(first.key, first.times, second.times, judge(first.times, second.times) if alike else "other work")


def _differing(first: Result, second: Result) -> Iterator[str]:
    for name, words in _ABOUT.items():
        yield from _pair(words, getattr(first.about, name), getattr(second.about, name))
    yield from _pair("threads", first.runner.threads, second.runner.threads)
    for name, words in _MACHINE.items():
        yield from _pair(words, getattr(first.machine, name), getattr(second.machine, name))


def _others(first: Result, second: Result) -> Iterator[str]:
    for name, words in {"by": "what ran the graphs", "cuda_graph": "--cuda-graph", "target": "target"}.items():
        yield from _pair(words, getattr(first.runner, name), getattr(second.runner, name))
    ours, theirs = first.machine.versions, second.machine.versions
    for name in dict.fromkeys([*ours, *theirs]):
        yield from _pair(name, ours.get(name, ""), theirs.get(name, ""))
    yield from _pair("tokens kept", first.about.tokens, second.about.tokens)
    yield from _pair("source of the frames", first.about.source, second.about.source)


def _pair(words: str, ours: object, theirs: object) -> Iterator[str]:
    if ours != theirs:
        yield f"{words} ({_named(ours)} and {_named(theirs)})"


def _named(value: object) -> str:
    return (
        {True: "yes", False: "no", "": "none"}.get(value, str(value)) if isinstance(value, (bool, str)) else str(value)
    )


def _listed(words: list[str] | tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
