"""Prompts: their text and ids, and merged tokens in them for runtimes that take input embeddings (docs/hand-over.md).

The video merges before the first layer here, so the whole language model sees the merged prompt and no other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.prompt import PLACEHOLDERS, SPECIAL, PromptSpec
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
from sttm_export.language.tokenizer import Tokenizer


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


def video_texts(prompt: PromptSpec, timestamps: Sequence[float], duration: float) -> tuple[str, str]:
    """Return the text before a video and the text right behind it.

    Args:
        prompt: of the model.
        timestamps: [T'] seconds, of the frames.
        duration: seconds that the video lasts.

    Raises:
        UserError: no frames, where the text tells of them.
    """
    told = any(name in prompt.behind for name in PLACEHOLDERS)
    if told and len(timestamps) == 0:
        raise UserError("The prompt names the frames' times and there are none; give `timestamps` of the clip.")
    values = {
        "{seconds}": f"{float(duration):.2f}",
        "{frames}": str(len(timestamps)),
        "{times}": ",".join(f"{float(time):.2f}s" for time in timestamps),
    }
    # Three names are replaced and nothing is evaluated: model files come from anybody.
    return prompt.before, re.sub("|".join(map(re.escape, PLACEHOLDERS)), lambda found: values[found[0]], prompt.behind)


def question_text(question: str) -> str:
    """Return a question as it stands in a prompt: without whitespace around it.

    Published questions have none, and a newline at the edge would melt into tokens of the text beside it.

    Raises:
        UserError: nothing in it, or no Unicode text.
    """
    try:
        question.encode()
    except UnicodeEncodeError as error:  # bytes of a terminal that is not set to UTF-8
        raise UserError("The question is no valid UTF-8 text; check the terminal's or the file's encoding.") from error
    if not (stripped := question.strip()):
        raise UserError("The question is empty; ask something.")
    return stripped


def video_ids(
    tokenizer: Tokenizer, prompt: PromptSpec, timestamps: Sequence[float], duration: float
) -> tuple[list[int], list[int]]:
    """Return the ids before a video and right behind it; arguments as for `video_texts`.

    They do not depend on the question: `behind` ends with a newline or a special token (`PromptSpec`), a question
    begins with no whitespace, and between the two Qwen2's rules always part tokens.
    """
    before, behind = video_texts(prompt, timestamps, duration)
    return tokenizer.encode(before, special=True), tokenizer.encode(behind, special=True)


def question_ids(tokenizer: Tokenizer, prompt: PromptSpec, question: str) -> list[int]:
    """Return the ids of a question and of all text up to the answer.

    Names of special tokens in a question are spelled out, not refused: a user may ask what they mean, and spelled out
    they end no turn and begin none. Text of the prompt up to its first special token is read in one with the question,
    so that the tokens are those of the joined text.
    """
    asked = question_text(question)
    found = SPECIAL.search(prompt.after)
    plain = found.start() if found else len(prompt.after)
    ids = tokenizer.encode(asked + prompt.after[:plain], special=False)
    return ids + tokenizer.encode(prompt.after[plain:], special=True)


def _split(ids: Sequence[int], placeholder: int) -> tuple[int, list[int], list[int]]:
    """Where the placeholder stands, and the ids before and behind it."""
    found = [row for row, number in enumerate(ids) if number == placeholder]
    if len(found) != 1:
        raise UserError(
            f"The placeholder {placeholder} stands {len(found)} times in the prompt; "
            "it must stand once, where the video goes."
        )
    return found[0], [int(number) for number in ids[: found[0]]], [int(number) for number in ids[found[0] + 1 :]]
