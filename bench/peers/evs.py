"""Pruning of cells that stand still, like EVS, "Efficient Video Sampling" (arXiv 2510.14624).

Read: the abstract and a summary of the algorithm. The first frame is kept; every later patch is held against the patch
of its place in the frame before by the L1 norm of the difference; the patches that change most over the whole clip are
kept, so that a share q goes.

What differs: the paper compares pixels, and here are only features, so their differences are taken, which serves a
measure of features better. Choices made here: a cell that goes is stood for by the last kept cell of its place, since
that is what it is said not to differ from.
"""

from __future__ import annotations

import numpy as np

from bench.peers.reduced import Features, Reduced, kept, most, needs


def reduce(features: Features, wanted: int) -> Reduced:
    """Return exactly `wanted` tokens."""
    frames, cells = len(features), features.shape[1] * features.shape[2]
    needs(wanted, cells, "the first frame keeps all its cells")
    rows = features.reshape(frames, cells, -1)
    change = np.abs(rows[1:] - rows[:-1]).sum(-1)  # [T - 1, N]
    stays = np.zeros((frames, cells), bool)
    stays[0] = True
    stays[1:].ravel()[most(change.ravel(), wanted - cells)] = True
    last = np.maximum.accumulate(np.where(stays, np.arange(frames)[:, None], 0), axis=0)
    return kept(features, (last * cells + np.arange(cells)).ravel())
