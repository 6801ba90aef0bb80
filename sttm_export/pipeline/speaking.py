"""The language model of a bundle, loaded to answer questions about frames that were seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import numpy as np

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.decoding import EMBEDDINGS, HEAD, TOKENIZER
from sttm_export.errors import UserError
from sttm_export.language.answering import Choose, answer
from sttm_export.language.choose import Sampler, greedy
from sttm_export.language.embeddings import Table, read_embeddings
from sttm_export.language.model import Graphs, LanguageModel, Merge
from sttm_export.language.positions import Policy
from sttm_export.language.prompt import question_ids, video_ids
from sttm_export.language.room import longest_answer, room_behind
from sttm_export.language.rows import Told
from sttm_export.language.tokenizer import read_tokenizer
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.resident import Floats


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How an answer is chosen; None leaves the usual value."""

    max_new_tokens: int | None = None
    temperature: float = 0.0  # 0: the likeliest token each time
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def chooser(self) -> Choose:
        """What chooses the tokens of one answer; with a seed each answer is repeated, whatever was asked before it.

        Raises:
            UserError: a value that is not possible.
        """
        if self.temperature == 0:
            return greedy
        return Sampler(self.temperature, self.top_k or 0, 1.0 if self.top_p is None else self.top_p, self.seed or 0)


def load_language_model(
    loader: Loader, stack: ExitStack, table: Table, merging: Merge, told: Told = lambda _name, _share: None
) -> LanguageModel:
    """Load the graphs of a language model; they stay until the stack is closed.

    Args:
        loader: of a bundle with a decoder.
        stack: closes the sessions.
        table: of embeddings.
        merging: merges what comes out of the layers below the merge layer.
        told: which graph is loaded.

    Raises:
        UserError: one of them cannot be loaded.
    """
    bundle = loader.bundle
    recipe, model = bundle.manifest.recipe, bundle.model
    below, above = ([recipe.group_graph(span).name for span in spans] for spans in (recipe.below, recipe.above))
    names, sessions = [*below, *above, HEAD], {}
    for place, name in enumerate(names):
        told(name, place / len(names))
        sessions[name] = stack.enter_context(loader.open(name))
    under, over = ([sessions[name] for name in side] for side in (below, above))
    graphs = Graphs(under, over, sessions[HEAD], table, merging)
    grid = model.grid.height, model.grid.width
    return LanguageModel(recipe.decoder, graphs, grid, cast("Policy", model.merging.positions))


def check_can_speak(bundle: Bundle) -> None:
    """Refuse a bundle that cannot be asked.

    Raises:
        UserError: it has no decoder, or lacks a file that goes with one.
    """
    if bundle.manifest.decoding is None:
        raise UserError(
            f"{bundle.path} has no language model to ask; export it again with --decoder, or see its tokens with "
            "`sttm-export run`."
        )
    listed = {row.path for row in bundle.manifest.files}
    if lacking := [name for name in (EMBEDDINGS, TOKENIZER) if name not in listed]:
        raise UserError(f"{bundle.path} lacks {lacking[0]}, which goes with a language model; export it again.")


class Speaker:
    """A loaded language model and what it has read.

    Args:
        loader: of a bundle with a decoder.
        stack: closes the sessions.
        merging: merges what comes out of the layers below the merge layer.

    Raises:
        UserError: the bundle has no decoder, or a file or graph of it cannot be loaded.
    """

    def __init__(self, loader: Loader, stack: ExitStack, merging: Merge) -> None:
        check_can_speak(loader.bundle)
        loader.verify(EMBEDDINGS, TOKENIZER)
        self._recipe = loader.bundle.manifest.recipe
        self._tokenizer = read_tokenizer(loader.bundle.path / TOKENIZER, self._recipe.decoder.vocabulary)
        table = read_embeddings(loader.bundle.path / EMBEDDINGS, self._recipe)
        self._model = load_language_model(loader, stack, table, merging)
        self._room = 0

    def watch(self, features: Floats, timestamps: Sequence[float], duration: float) -> None:
        """Read a video.

        Args:
            features: [T', N, C] embeddings.
            timestamps: [n] seconds after its beginning, of the frames.
            duration: seconds that it lasts.

        Raises:
            UserError: a graph cannot be run.
        """
        before, behind = video_ids(self._tokenizer, self._recipe.prompt, timestamps, duration)
        self._room = room_behind(self._recipe, len(features), len(before) + len(behind))
        self._model.watch(before, features.astype(np.float32), behind)

    def answer(self, question: str, asking: Asking) -> Iterator[str]:
        """Yield the text of an answer as it comes.

        Raises:
            UserError: an empty question, or no room for it and its answer.
        """
        if asking.max_new_tokens is not None and asking.max_new_tokens < 1:
            raise UserError(f"{asking.max_new_tokens} tokens would be no answer; give 1 or more.")
        prompt = self._recipe.prompt
        ids = question_ids(self._tokenizer, prompt, question)
        most, stop = longest_answer(len(ids), self._room, asking.max_new_tokens), self._tokenizer.stop_ids(prompt)
        _, text = answer(self._model, self._tokenizer, ids, most, asking.chooser(), stop)
        return text
