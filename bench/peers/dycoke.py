"""DyCoke's first stage, temporal merging (arXiv 2411.15024). Its second stage prunes keys and values while decoding.

Read: the abstract and a review; the steps are as the paper is known, not held against its text. Windows of four frames;
in each, the second frame is compared with the first and the fourth with the third, cell by cell of one place, by
cosine; the most similar cells of the second and fourth go; then the same for the third against the first. One frame of
a window keeps all its cells, so a quarter of the tokens is the least.

Choices made here: the rate is what gives the count, the same for every frame that may lose cells, the first ones losing
one more where it does not divide; a cell that goes is stood for by the one it was compared with, or where that has gone
as well, by what stands for it; tokens that stay are left as they are, not averaged; a last window may be shorter.
"""

from __future__ import annotations

import numpy as np

from bench.peers.reduced import Features, Reduced, kept, most, needs, unit

WINDOW = 4
_COMPARED_WITH = {1: 0, 3: 2, 2: 0}
"""Of a frame's place in its window; in the order in which cells go."""


def reduce(features: Features, wanted: int) -> Reduced:
    """Return exactly `wanted` tokens."""
    frames, cells = len(features), features.shape[1] * features.shape[2]
    losing = [t for t in range(frames) if t % WINDOW]
    needs(wanted, (frames - len(losing)) * cells, f"the first frame of every {WINDOW} keeps all its cells")
    going = max(0, frames * cells - wanted)
    directions = unit(features).reshape(frames, cells, -1)
    keeper = np.arange(frames * cells).reshape(frames, cells)
    for place in sorted(_COMPARED_WITH, key=lambda one: one % 2):  # the third before the fourth, which may point to it
        for t in losing:
            if t % WINDOW == place:
                number = losing.index(t)
                count = going // len(losing) + (number < going % len(losing))
                other = t - place + _COMPARED_WITH[place]
                similar = (directions[t] * directions[other]).sum(-1)
                gone = most(similar, count)
                keeper[t, gone] = keeper[other, gone]
    return kept(features, keeper.ravel())
