"""FrameFusion's merging (arXiv 2501.01986). Its pruning by attention, which follows some layers later, is left out.

Read: the abstract and the authors' project page. Only cells of one place in adjacent frames are compared, by cosine;
those above a threshold are merged, chains of them into one token, which is their mean and stands at the earliest.

Choices made here: the threshold is the one that gives the count, so the most similar pairs of the clip are merged; all
of it happens at once, as there are no layers. At least the N tokens of one frame stay.
"""

from __future__ import annotations

import numpy as np

from bench.peers.reduced import Features, Reduced, merged, most, needs, similarity_to_last_frame


def reduce(features: Features, wanted: int) -> Reduced:
    """Return exactly `wanted` tokens."""
    frames, cells = len(features), features.shape[1] * features.shape[2]
    needs(wanted, cells, "cells of different places never merge")
    joins = np.zeros((frames, cells), bool)  # the frame before
    similarity = similarity_to_last_frame(features).ravel()
    joins[1:].ravel()[most(similarity, max(0, frames * cells - wanted))] = True
    start = np.maximum.accumulate(np.where(joins, 0, np.arange(frames)[:, None]), axis=0)
    return merged(features, (start * cells + np.arange(cells)).ravel())
