"""Frame dropping: whole frames are kept, and the others are not seen at all. No paper: it is what sampling less does.

A dropped cell is stood for by the cell of its place in the nearest kept frame, the earlier one of two. Choices made
here: kept frames are the middles of equal stretches of the clip, which is the best that even spacing can do; no frame
is kept in part, so counts come in steps of N.
"""

from __future__ import annotations

import numpy as np

from bench.peers.reduced import Features, Reduced, kept, needs


def reduce(features: Features, wanted: int) -> Reduced:
    """Return the cells of floor(wanted / N) frames."""
    frames, height, width, _ = features.shape
    cells = height * width
    needs(wanted, cells, "a kept frame keeps all its cells")
    middles = kept_frames(frames, min(wanted // cells, frames))
    distance = np.abs(np.arange(frames)[:, None] - middles)  # [T, kept]
    nearest = middles[distance.argmin(1)]
    return kept(features, (nearest[:, None] * cells + np.arange(cells)).ravel())


def kept_frames(frames: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """[count]: the middle frame of each of so many equal stretches."""
    return (2 * np.arange(count) + 1) * frames // (2 * count)
