"""How many slots are left for a question and its answer, before anything is run."""

from __future__ import annotations

from sttm_export.contracts.recipe import Recipe
from sttm_export.errors import UserError

USUAL_ANSWER = 128
"""Tokens of an answer at most, where nothing else was asked for."""


def room_behind(recipe: Recipe, frames: int, read: int) -> int:
    """Slots that every buffer has behind a video, however much of it merges.

    Args:
        recipe: of a bundle with a decoder.
        frames: T', steps of the video.
        read: tokens of text that are read with it, before it and behind it.
    """
    merge, decoding = recipe.merge, recipe.decoding
    assert decoding is not None, "who asks has checked that there is a decoder"
    # A shorter clip leaves slots of its video free, in both kinds of buffers.
    spare = [merge.max_tokens - merge.clip_budget(frames)]
    spare += [(merge.frames - frames) * merge.cells] if recipe.below else []
    return decoding.text + min(spare) - read


def longest_answer(question: int, room: int, wanted: int | None) -> int:
    """Return how many tokens an answer has at most: what was asked for, or the usual number as far as there is room.

    The last token of an answer takes no slot, as nothing comes behind it.

    Args:
        question: its tokens, and those of the prompt behind it.
        room: slots behind the video.
        wanted: tokens that the user asks for at most; None for the usual number.

    Raises:
        UserError: the question has no room, or the answer that was asked for has none.
    """
    most = room - question + 1
    if most < 1:
        raise UserError(
            f"The question takes {question} tokens and there are {max(room, 0)} slots behind the video; ask in fewer "
            "words, or export with more --text-tokens."
        )
    if wanted is not None and wanted > most:
        raise UserError(
            f"A question of {question} tokens and an answer of {wanted} do not fit into the {room} slots behind the "
            f"video; give --max-new-tokens {most} or less, ask in fewer words, or export with more --text-tokens."
        )
    return min(USUAL_ANSWER, most) if wanted is None else wanted
