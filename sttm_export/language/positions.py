"""Positions of a prompt [system][video][question], before merging and after it (docs/semantics.md, section 5).

P = 1 row of positions for LLaVA, 3 (time, row, column) for Qwen2-VL. Layers below the merge layer see the whole
prompt; layers from it on the merged one. A decoded token has the position that it would have without merging, in all
layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Policy = Literal["reassigned", "representative"]


@dataclass(frozen=True)
class Prompt:
    """Lengths of a prompt."""

    system: int
    frames: int  # T
    height: int  # H of the token grid
    width: int  # W of the token grid
    question: int

    @property
    def video(self) -> int:
        """Tokens of the video, T·H·W."""
        return self.frames * self.height * self.width

    @property
    def length(self) -> int:
        """S, tokens of the prompt without merging."""
        return self.system + self.video + self.question


def prompt_positions(prompt: Prompt, policy: Policy) -> Ints:
    """Return the positions of the prompt without merging, [P, S].

    `reassigned` (LLaVA): 0 to S - 1. `representative` (Qwen2-VL): text counts on in all three; the video's tokens have
    the position where it begins, plus their time, row and column; text behind it goes on after the largest of them.
    """
    if policy == "reassigned":
        return np.arange(prompt.length)[None]
    start = prompt.system
    grid = np.indices((prompt.frames, prompt.height, prompt.width)).reshape(3, -1) + start
    after = start + max(prompt.frames, prompt.height, prompt.width)
    text = [np.tile(np.arange(first, first + count), (3, 1)) for first, count in ((0, start), (after, prompt.question))]
    return np.concatenate([text[0], grid, text[1]], axis=1)


def merged_positions(whole: Ints, prompt: Prompt, representatives: Ints, policy: Policy) -> Ints:
    """Return the positions of the merged prompt, [P, S'].

    Args:
        whole: positions without merging, [P, S].
        prompt: lengths without merging.
        representatives: [n] cell of the video, t·H·W + y·W + x, that stands for each merged token.
        policy: `reassigned` counts the merged prompt from 0; `representative` keeps what each token had.
    """
    if policy == "reassigned":
        return np.arange(prompt.system + len(representatives) + prompt.question)[None]
    end = prompt.system + prompt.video
    return np.concatenate(
        [whole[:, : prompt.system], whole[:, prompt.system + representatives], whole[:, end:]], axis=1
    )


def cells_of(boxes: NDArray[np.integer], prompt: Prompt) -> Ints:
    """Return the cell of the video, t·H·W + y·W + x, at the top left of each token's box; [n, 5] → [n]."""
    t, y, x = np.asarray(boxes, np.int64)[:, :3].T
    cells: Ints = (t * prompt.height + y) * prompt.width + x
    return cells


def next_position(whole: Ints) -> int:
    """Position of the first decoded token: one after the largest of the prompt without merging."""
    return int(whole.max()) + 1
