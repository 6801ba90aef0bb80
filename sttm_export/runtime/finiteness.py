"""What is not finite in a tensor, in words: how many values, of which kind, and the first of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nonfinite(array: NDArray[np.generic]) -> str:
    """Return one phrase about the NaN and infinities of an array of any dtype; empty where there are none.

    `37 of 150,528 values are not finite (30 NaN, 7 infinite), first at [3, 17, 5]`
    """
    bad = ~np.isfinite(array)
    count = int(bad.sum())
    if not count:
        return ""
    nan = int(np.isnan(array).sum())
    kinds = [f"{number} {kind}" for number, kind in ((nan, "NaN"), (count - nan, "infinite")) if number]
    first = np.argwhere(bad)[0].tolist()
    where = f", first at {first}" if first else ""
    return f"{count:,} of {array.size:,} values are not finite ({', '.join(kinds)}){where}"


def undefined_frames(what: str, frames: NDArray[np.generic]) -> list[str]:
    """One sentence when an input holds NaN or Inf, else nothing. Axis 0 counts frames."""
    counts = [int((~np.isfinite(frame)).sum()) for frame in frames]
    where = [str(t) for t, count in enumerate(counts) if count]
    if not where:
        return []
    listed = ", ".join(where[:8]) + (f" and {len(where) - 8} more" if len(where) > 8 else "")
    return [f"{what} hold {sum(counts)} NaN/Inf in frames {listed}; similarities are undefined there"]
