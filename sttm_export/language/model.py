"""A language model whose graphs are loaded: the video is read once, and each question pays for its own tokens.

Layers below the merge layer see [system][video][behind], layers from it on [system][merged video][behind]; both keep
keys and values in the sessions' state. A question goes behind them, its answer behind the question, and the next
question over both: slots are overwritten before they are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.decoder import DecoderSpec
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
from sttm_export.language.rows import Floats, Told, rows_through, shares
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.session import Arrays, StatefulSession

Merge = Callable[[Floats], MergedTokens]
"""Hidden states [T', N, C] at the input of the merge layer → merged tokens."""


def _silent(_name: str, _share: float) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class Graphs:
    """Loaded graphs, in the order of the data."""

    below: Sequence[StatefulSession]  # groups of layers below the merge layer; none where the embeddings merge
    above: Sequence[StatefulSession]
    head: StatefulSession
    embeddings: NDArray[np.floating]  # [V, C], may be a mapped file
    merge: Merge

    @property
    def groups(self) -> list[StatefulSession]:
        """All that keep keys and values."""
        return [*self.below, *self.above]


@dataclass(frozen=True)
class Watched:
    """A video that has been read."""

    system: int  # tokens before it
    frames: int  # T'
    cells: Ints  # [n] cell of the video that stands for each merged token
    behind: int = 0  # tokens of text behind it that every question shares


class LanguageModel:
    """Reads a video, then answers questions about it.

    Args:
        spec: sizes of the decoder.
        graphs: loaded.
        grid: H, W of the tokens of a frame.
        policy: of positions after merging.
    """

    def __init__(self, spec: DecoderSpec, graphs: Graphs, grid: tuple[int, int], policy: Policy) -> None:
        self._spec, self._graphs, self._grid, self._policy = spec, graphs, grid, policy
        self._watched: Watched | None = None

    def watch(
        self,
        system: Sequence[int],
        video: Floats,
        behind: Sequence[int] = (),
        told: Told = _silent,
    ) -> Watched:
        """Read a video: prefill all layers with [system][video][behind], merging in between.

        Args:
            system: ids of the text before the video.
            video: [T', N, C] embeddings.
            behind: ids of text behind the video that is the same for every question. The merging never looks at it.
            told: of the progress.
        """
        frames, cells, channels = video.shape
        prompt = self._prompt(len(system), frames, len(behind))
        whole = prompt_positions(prompt, self._policy)
        parts = [self._embedded(system), video.reshape(-1, channels), self._embedded(behind)]
        hidden = self._run(self._graphs.below, np.concatenate(parts).astype(np.float32), whole, 0, told)
        before, seen, after = np.split(hidden, [prompt.system, prompt.system + prompt.video])
        merged = self._graphs.merge(seen.reshape(frames, cells, channels))
        represented = cells_of(merged.token_box, prompt)
        positions = merged_positions(whole, prompt, represented, self._policy)
        hidden = np.concatenate([before, merged.tokens.astype(np.float32), after])
        self._run(self._graphs.above, hidden, positions, 0, told)
        self._watched = Watched(prompt.system, frames, represented, len(behind))
        return self._watched

    def ask(self, question: Sequence[int], most: int, choose: Callable[[Floats], int]) -> Iterator[int]:
        """Yield the answer's tokens; who asks stops at an end token by not taking further ones.

        Args:
            question: ids of the text behind what was read.
            most: tokens at most.
            choose: logits [V] → the next token.

        Raises:
            UserError: no video was read, an empty question, or no room for question and answer.
        """
        watched = self._ready(question, most)
        prompt = self._prompt(watched.system, watched.frames, watched.behind + len(question))
        whole = prompt_positions(prompt, self._policy)
        merged = merged_positions(whole, prompt, watched.cells, self._policy)
        behind, above = (positions[:, -len(question) :] for positions in (whole, merged))
        read = watched.system + watched.behind
        slots = read + prompt.video, read + len(watched.cells)
        hidden = self._through(self._embedded(question), behind, above, slots)
        position = next_position(whole)
        slots = slots[0] + len(question), slots[1] + len(question)
        for count in range(most):
            token = choose(self._logits(hidden[-1:]))
            yield token
            if count + 1 == most:
                return
            # A decoded token has the position that it would have without merging, in all layers.
            at = np.full((len(whole), 1), position + count)
            hidden = self._through(self._embedded([token]), at, at, (slots[0] + count, slots[1] + count))

    def state(self) -> dict[str, Arrays]:
        """Return keys and values of every group by the name of its graph."""
        return {session.graph.name: session.state() for session in self._graphs.groups}

    def restore(self, watched: Watched, state: Mapping[str, Arrays]) -> None:
        """Go on with a video that was read before.

        Raises:
            UserError: keys and values of other graphs.
        """
        names = [session.graph.name for session in self._graphs.groups]
        if sorted(state) != sorted(names):
            raise UserError(
                f"Keys and values are of {', '.join(sorted(state)) or 'no graph'}, and this model has "
                f"{', '.join(names)}; give those that the same bundle left."
            )
        for session in self._graphs.groups:
            session.restore(state[session.graph.name])
        self._watched = watched

    def _prompt(self, system: int, frames: int, question: int) -> Prompt:
        return Prompt(system, frames, *self._grid, question)

    def _ready(self, question: Sequence[int], most: int) -> Watched:
        if self._watched is None:
            raise UserError("No video has been read; read one before asking about it.")
        if len(question) == 0:
            raise UserError("The question is empty; ask something.")
        watched = self._watched
        video = self._prompt(watched.system, watched.frames, 0).video
        need, read = len(question) + most - 1, watched.system + watched.behind
        for sessions, taken in ((self._graphs.above, len(watched.cells)), (self._graphs.below, video)):
            for session in sessions:
                room = session.graph.kept[0].shape[1] - read - taken
                if need > room:
                    raise UserError(
                        f"A question of {len(question)} tokens and an answer of {most} need {need} slots behind the "
                        f"video, and there are {room}; ask in fewer words, or for a shorter answer."
                    )
        return watched

    def _embedded(self, ids: Sequence[int]) -> Floats:
        return np.asarray(self._graphs.embeddings[np.asarray(ids, np.int64)], np.float32)

    def _through(self, hidden: Floats, below: Ints, above: Ints, slots: tuple[int, int]) -> Floats:
        hidden = self._run(self._graphs.below, hidden, below, slots[0])
        return self._run(self._graphs.above, hidden, above, slots[1])

    def _run(
        self, sessions: Sequence[StatefulSession], hidden: Floats, positions: Ints, slot: int, told: Told = _silent
    ) -> Floats:
        groups = self._graphs.groups
        for session in sessions:
            name, place = session.graph.name, groups.index(session)
            tell = shares(told, name, place, len(groups))
            hidden = rows_through(session, self._spec, hidden, positions, slot, tell)
        return hidden

    def _logits(self, hidden: Floats) -> Floats:
        return np.asarray(self._graphs.head.run({"hidden": hidden})["logits"][0], np.float32)
