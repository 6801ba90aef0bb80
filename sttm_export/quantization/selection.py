"""Which points stay in float16: as few of the most costly as it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


def ranked(costs: Mapping[str, float]) -> list[str]:
    """Names by what they cost, the most costly first; equal ones in the order of the data."""
    return sorted(costs, key=lambda name: -costs[name])


def fewest_kept(ranking: Sequence[str], passes: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """Return the first names of a ranking that must be kept in float16 for the rest to pass.

    By bisection: keeping more is taken to be no worse, and keeping all passes. `passes` is asked about 1 + log2(n)
    times, where each time is a run of the encoder.

    Args:
        ranking: the most costly first.
        passes: told what is kept.
    """
    if passes(()):
        return ()
    missed, passed = 0, len(ranking)
    while passed - missed > 1:
        middle = (missed + passed) // 2
        if passes(ranking[:middle]):
            passed = middle
        else:
            missed = middle
    return tuple(ranking[:passed])
