"""Features files: those of tests/golden, or a user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.clip import CLIPS, GOLDEN
from bench.sources.clip import Clip, Source, read_features

GOLDEN_SOURCE = Source(
    "golden",
    "16 channels of the golden vectors",
    trained=False,
    what="the features [T, 16, 14, 14] of three real clips in the golden vectors of the tests: 16 numbers a cell, not "
    "those of a model; how they were made of the frames is not recorded",
)


def golden() -> Iterator[Clip]:
    """The three real clips on a grid of 14×14."""
    for name in CLIPS:
        yield Clip(GOLDEN_SOURCE, name.split("_", 1)[0], read_features(GOLDEN / f"{name}.npz"))


def given(paths: Iterable[Path]) -> Iterator[Clip]:
    """Files that a user names."""
    source = Source(
        "files", "features files", trained=False, what="features files that were given; who made them is not known"
    )
    for path in paths:
        yield Clip(source, path.stem, read_features(path))
