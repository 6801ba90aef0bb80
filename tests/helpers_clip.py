"""A merged clip that was thought up, so that what is drawn of it is known: a block that stays, one that goes, one that
comes."""

import numpy as np

from sttm_export.contracts.model import GridSpec
from sttm_export.runtime.merged import MergedTokens

GRID = GridSpec(4, 6)
# Of each token: its box, and in which frames it covers it.
_TOKENS = [
    ((0, 0, 0, 4, 2), (0, 1, 2)),  # stays on the left
    ((0, 0, 2, 2, 4), (0,)),
    ((0, 0, 4, 2, 6), (0, 1)),
    ((0, 2, 2, 4, 4), (0, 1, 2)),
    ((0, 2, 4, 4, 6), (0, 2)),  # is gone in frame 1, and comes back
    ((1, 0, 2, 2, 4), (1, 2)),
    ((1, 2, 4, 4, 6), (1,)),
    ((2, 0, 4, 2, 6), (2,)),
]


def thought_up(channels=3):
    """Three frames of 4×6 cells, eight tokens; token i is [i, 1, 1, …]."""
    assignment = np.full((3, GRID.height, GRID.width), -1, np.int32)
    for token, ((_, y0, x0, y1, x1), frames) in enumerate(_TOKENS):
        for frame in frames:
            assignment[frame, y0:y1, x0:x1] = token
    assert assignment.min() == 0
    tokens = np.ones((len(_TOKENS), channels), np.float32)
    tokens[:, 0] = np.arange(len(_TOKENS))
    flat = assignment.reshape(3, GRID.cells)
    return MergedTokens(
        tokens=tokens,
        token_box=np.array([box for box, _ in _TOKENS], np.int32),
        token_patches=np.bincount(flat.ravel()).astype(np.int32),
        assignment=flat,
        thresholds=np.array([0.85, 0.65], np.float32),
        converged=True,
        margins=np.array([1e-3, 2e-3], np.float32),
        max_tokens=10,
    )


def grey_frames(count=3, height=120, width=180, value=128):
    """Frames of one grey."""
    return np.full((count, height, width, 3), value, np.uint8)
