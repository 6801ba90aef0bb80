"""Uniform spatial pooling: every frame on a coarser grid, as LLaVA-Video (arXiv 2410.02713) and others pool frames.

Nothing was read for it; as is known, the video models of the LLaVA family average 2×2 patches of every frame. Choices
made here: any grid that is as many times smaller in height as in width, but for rounding, and the largest of them that
fits; windows never overlap, so row y of H goes to row floor(y·h/H), and a token is the mean of its window. So counts
come in steps.
"""

from __future__ import annotations

import numpy as np

from bench.peers.reduced import Features, Reduced, merged, needs


def reduce(features: Features, wanted: int) -> Reduced:
    """Return at most `wanted` tokens, the same grid in every frame."""
    frames, height, width, _ = features.shape
    needs(wanted, frames, "every frame keeps one")
    h, w = grid(height, width, wanted // frames)
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    window = rows[:, None] * w + columns  # [H, W]
    groups = np.arange(frames)[:, None, None] * (h * w) + window
    return merged(features, groups.ravel())


def grid(height: int, width: int, most: int) -> tuple[int, int]:
    """Height and width of the largest grid of at most so many windows and the frame's own shape, but for rounding."""
    shapes = ((h, h * width // height + more) for h in range(1, height + 1) for more in (0, 1))
    fitting = [(h, w) for h, w in shapes if 1 <= w <= width and h * w <= most]
    return max(fitting, key=lambda shape: (shape[0] * shape[1], -shape[1]))
