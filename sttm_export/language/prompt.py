"""Prompts with merged tokens in them, for runtimes that take input embeddings (docs/hand-over.md).

The video merges before the first layer here, so the whole language model sees the merged prompt and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from sttm_export.errors import UserError
from sttm_export.language.positions import (
    Ints,
    Policy,
    Prompt,
    cells_of,
    merged_positions,
    next_position,
    prompt_positions,
)

IMAGE = "<image>"
"""Where the video stands in the text of a prompt."""


@dataclass(frozen=True)
class SplicedPositions:
    """Positions of a prompt with merged tokens in it."""

    prompt: Ints  # [P, S]; P = 1 for LLaVA, 3 (time, row, column) for Qwen2-VL
    decoded: int  # of the first decoded token; the next has one more


def splice(
    embeddings: NDArray[np.floating], ids: Sequence[int], tokens: NDArray[np.floating], placeholder: int
) -> NDArray[np.float32]:
    """Return the input embeddings of a prompt whose placeholder stands for the video, [S, C] float32.

    Args:
        embeddings: [V, C], the language model's table; may be a mapped file.
        ids: of the prompt.
        tokens: [n, C] merged tokens, as a bundle makes them.
        placeholder: the one number in `ids` that the tokens replace; need not be the id of a token.

    Raises:
        UserError: no placeholder or several, tokens of another width, or an id that the table does not have.
    """
    row, before, after = _split(ids, placeholder)
    if tokens.ndim != 2 or tokens.shape[1] != embeddings.shape[1]:
        raise UserError(
            f"The tokens have the shape {list(tokens.shape)} and the language model takes [n, {embeddings.shape[1]}]; "
            "give `tokens` of a bundle of the same model."
        )
    wrong = [number for number in (*before, *after) if not 0 <= number < len(embeddings)]
    if wrong:
        raise UserError(
            f"The id {wrong[0]} is not in the table of {len(embeddings)} embeddings; "
            "give ids of this model's tokenizer."
        )
    spliced = np.empty((len(before) + len(tokens) + len(after), tokens.shape[1]), np.float32)
    spliced[:row] = embeddings[before]
    spliced[row : row + len(tokens)] = tokens
    spliced[row + len(tokens) :] = embeddings[after]
    return spliced


def spliced_positions(
    ids: Sequence[int], placeholder: int, boxes: NDArray[np.integer], grid: tuple[int, int, int], policy: Policy
) -> SplicedPositions:
    """Return the positions of the prompt that `splice` makes, and of what is decoded behind it (rules 5.2 to 5.6).

    Args:
        ids: as for `splice`.
        placeholder: as for `splice`.
        boxes: [n, 5], `token_box` of the tokens.
        grid: T', H and W, what `assignment` [T', H·W] covers.
        policy: of the model; "reassigned" (LLaVA) or "representative" (Qwen2-VL).

    Raises:
        UserError: no placeholder or several, boxes outside the grid, or another policy.
    """
    row, _, after = _split(ids, placeholder)
    corners = np.asarray(boxes)[:, :3]
    if policy not in get_args(Policy):
        raise UserError(f"There is no policy {policy!r} of positions; give one of {', '.join(get_args(Policy))}.")
    if np.any(corners < 0) or np.any(corners >= grid):
        raise UserError(f"Boxes of tokens lie outside a grid of {grid} (frames, height, width); give the clip's own.")
    prompt = Prompt(row, *grid, len(after))
    whole = prompt_positions(prompt, policy)
    return SplicedPositions(merged_positions(whole, prompt, cells_of(boxes, prompt), policy), next_position(whole))


def llava_video_prompt(question: str, timestamps: Sequence[float], duration: float) -> str:
    """Return the prompt of the published LLaVA-Video runs, with `<image>` where the video goes.

    Args:
        question: of the user.
        timestamps: [T'] seconds, of the frames.
        duration: seconds that the video lasts.

    Raises:
        UserError: no frames, or a question with `<image>` in it.
    """
    if len(timestamps) == 0:
        raise UserError("The prompt names the frames' times and there are none; give `timestamps` of the clip.")
    if IMAGE in question:
        raise UserError(f"The question holds {IMAGE}, which marks the place of the video; take it out.")
    times = ",".join(f"{float(time):.2f}s" for time in timestamps)
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{IMAGE}\n"
        f"The video lasts for {float(duration):.2f} seconds, and {len(timestamps)} frames are uniformly sampled from "
        f"it. These frames are located at {times}. Please answer the following questions related to this video.\n"
        f"{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def _split(ids: Sequence[int], placeholder: int) -> tuple[int, list[int], list[int]]:
    """Where the placeholder stands, and the ids before and behind it."""
    found = [row for row, number in enumerate(ids) if number == placeholder]
    if len(found) != 1:
        raise UserError(
            f"The placeholder {placeholder} stands {len(found)} times in the prompt; "
            "it must stand once, where the video goes."
        )
    return found[0], [int(number) for number in ids[: found[0]]], [int(number) for number in ids[found[0] + 1 :]]
