"""ToMe, "Token Merging: Your ViT But Faster" (arXiv 2210.09461), within frames or over the whole clip.

Read: the abstract and a summary of the algorithm; the rest is as the paper is known. Tokens alternate between sets A
and B; each of A draws an edge to the most similar of B; the r most similar edges are merged, by means weighted with the
number of patches; the sets are concatenated again. A step merges half of the tokens at most, so it is repeated.

Where the paper leaves a choice, or does not fit: it compares the keys of attention, here are only the features; it
merges r tokens in each layer of a network, and here nothing happens between two steps, so `STEPS` steps (the layers of
ViT-B) keep the same share of tokens each. Per frame, every frame gets as many tokens, and the first ones what is left
over. Per clip, A and B alternate within a frame and from frame to frame: in plain order a frame of an even number of
cells would put a place into the same set in all frames, and what stands still would never meet itself.
"""

from __future__ import annotations

import numpy as np

from bench.peers.reduced import Features, Integers, Reduced, flat, merged, most, needs, unit

STEPS = 12
_BLOCK = 1024
"""Rows of A that are compared at once."""


def per_frame(features: Features, wanted: int) -> Reduced:
    """Return exactly `wanted` tokens, as many in every frame but for one."""
    frames, cells = len(features), features.shape[1] * features.shape[2]
    needs(wanted, frames, "every frame keeps one")
    share, more = divmod(min(wanted, frames * cells), frames)
    groups = [bipartite(flat(frame[None]), share + (t < more)) + t * cells for t, frame in enumerate(features)]
    return merged(features, np.concatenate(groups))


def per_clip(features: Features, wanted: int) -> Reduced:
    """Return exactly `wanted` tokens, wherever they lie in the clip."""
    needs(wanted, 1, "something is kept")
    order = _alternating(len(features), features.shape[1] * features.shape[2])
    groups = np.empty(len(order), np.int64)
    groups[order] = bipartite(flat(features)[order], wanted)
    return merged(features, groups)


def _alternating(frames: int, cells: int) -> Integers:
    """[T·N]: an order of the cells in which those of one place are at even and odd positions in turn."""
    numbers = np.arange(frames * cells).reshape(frames, cells)
    if cells % 2 == 0:
        numbers[1::2] = np.roll(numbers[1::2], 1, axis=1)
    return numbers.ravel()


def bipartite(cells: Features, wanted: int) -> Integers:
    """[M]: groups of rows [M, C] after bipartite soft matching down to `wanted` of them."""
    count = len(cells)
    groups = np.arange(count)  # of each cell, by its place in `tokens`
    tokens, sizes = cells, np.ones(count)
    for step in range(1, STEPS + 1):
        # At most half go in a step: more steps than planned where so few are wanted.
        target = max(wanted, round(count * (wanted / count) ** (step / STEPS)))
        while len(tokens) > target:
            tokens, sizes, place = _step(tokens, sizes, min(len(tokens) - target, len(tokens) // 2))
            groups = place[groups]
    return groups


def _step(tokens: Features, sizes: Features, r: int) -> tuple[Features, Features, Integers]:
    """Merge r pairs; also the new place [M] of each token."""
    a, b = tokens[::2], tokens[1::2]
    nearest, similarity = _edges(unit(a), unit(b))
    gone = np.zeros(len(a), bool)
    gone[most(similarity, r)] = True
    place_in_a = np.cumsum(~gone) - 1
    into = np.where(gone, place_in_a[-1] + 1 + nearest, place_in_a)  # the places of A, then those of B
    place = np.empty(len(tokens), np.int64)
    place[::2], place[1::2] = into, place_in_a[-1] + 1 + np.arange(len(b))
    total = np.zeros((len(tokens) - r, tokens.shape[1]), tokens.dtype)
    total[place[1::2]] = b * sizes[1::2, None]
    np.add.at(total, into, a * sizes[::2, None])
    weight = np.bincount(place, sizes)
    return total / weight[:, None].astype(tokens.dtype), weight, place


def _edges(a: Features, b: Features) -> tuple[Integers, Features]:
    """For each row of A the most similar of B, and how similar it is."""
    nearest, similarity = np.empty(len(a), np.int64), np.empty(len(a), a.dtype)
    for start in range(0, len(a), _BLOCK):
        products = a[start : start + _BLOCK] @ b.T
        nearest[start : start + _BLOCK] = best = products.argmax(1)
        similarity[start : start + _BLOCK] = np.take_along_axis(products, best[:, None], 1)[:, 0]
    return nearest, similarity
