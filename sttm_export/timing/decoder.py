"""The language model: time to the first token with merged tokens and with all, of a further question, and of a token.

What is timed is `LanguageModel` itself, with sessions that note their part. For all tokens the buffers above the merge
layer have too few slots, as they are made for merged ones: their rows are written again from the front (`Roomy`). That
is as many calls of the same graphs as all tokens need, over shorter buffers than they would need: a lower bound of what
a prefill without merging costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.decoding import EMBEDDINGS, HEAD, TOKENIZER
from sttm_export.errors import UserError
from sttm_export.language.embeddings import read_embeddings
from sttm_export.language.model import Graphs, LanguageModel, Merge
from sttm_export.language.positions import Policy
from sttm_export.language.prompt import question_ids, video_ids
from sttm_export.language.room import longest_answer, room_behind
from sttm_export.language.tokenizer import read_tokenizer
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.resident import Floats
from sttm_export.runtime.session import Arrays, StatefulSession
from sttm_export.timing.clock import WHOLE, Candidate, Limits, Parts, Told, measure, milliseconds
from sttm_export.timing.held import Held
from sttm_export.timing.inputs import Inputs
from sttm_export.timing.proxies import Laps, Roomy, Timed
from sttm_export.timing.result import Computed, Figure, computed

FIRST, FURTHER, DECODE = "first token", "further question", "decode"
MERGED, ALL = "merged", "all tokens"
QUESTION = "What happens in this video?"
FEATURES = "frames to features"
BELOW, MERGING, ABOVE, HEADING = "layers below", "merger", "layers above", "head"
_DECODED = 8
LOWER_BOUND = (
    "The first token with all tokens is as many calls of the bundle's own graphs as all tokens need. Buffers above the "
    "merge layer have slots for merged tokens only, so rows are written again from their front; longer buffers would "
    "cost more, so the figure is a lower bound."
)


@dataclass(frozen=True)
class Prompted:
    """Ids of a prompt around a video."""

    before: Sequence[int]
    behind: Sequence[int]
    question: Sequence[int]
    room: int  # tokens of an answer


def prompt_of(bundle: Bundle, inputs: Inputs) -> Prompted:
    """Return the ids of a question about the clip.

    Raises:
        UserError: the bundle's buffers have no room for it.
    """
    recipe = bundle.manifest.recipe
    tokenizer = read_tokenizer(bundle.path / TOKENIZER, recipe.decoder.vocabulary)
    before, behind = video_ids(tokenizer, recipe.prompt, inputs.timestamps.tolist(), inputs.duration)
    room = room_behind(recipe, inputs.steps, len(before) + len(behind))
    if room < 1:
        raise UserError(
            f"The bundle has no slot left for a question behind a clip of {inputs.steps} steps; export it again with "
            "more --text-tokens."
        )
    question = question_ids(tokenizer, recipe.prompt, QUESTION)[:room]
    return Prompted(before, behind, question, min(longest_answer(len(question), room, None), _DECODED + 1))


class Decoder:
    """A bundle's language model, loaded twice over the same sessions: for merged tokens and for all.

    Args:
        bundle: with a decoder.
        held: keeps its graphs loaded.
    """

    def __init__(self, bundle: Bundle, held: Held) -> None:
        recipe = bundle.manifest.recipe
        self.bundle, self.laps = bundle, Laps()
        names = [[recipe.group_graph(span).name for span in spans] for spans in (recipe.below, recipe.above)]
        below, above = ([held.hold(name) for name in side] for side in names)
        assert recipe.decoding is not None, "who loads it has looked"
        slots = recipe.decoding.text + recipe.merge.frames * recipe.merge.cells
        roomy = [Roomy(session, slots) for session in above]
        self._table = read_embeddings(bundle.path / EMBEDDINGS, recipe)
        self._below, self._head = self._timed(below, BELOW), self._timed([held.hold(HEAD)], HEADING)[0]
        self._above = {MERGED: self._timed(above, ABOVE), ALL: self._timed(roomy, ABOVE)}

    def model(self, way: str, merge: Merge) -> LanguageModel:
        """Return the model that reads merged tokens, or all."""
        recipe, grid = self.bundle.manifest.recipe, self.bundle.model.grid
        graphs = Graphs(self._below, self._above[way], self._head, self._table, merge)
        policy = cast("Policy", self.bundle.model.merging.positions)
        return LanguageModel(recipe.decoder, graphs, (grid.height, grid.width), policy)

    def _timed(self, sessions: Sequence[StatefulSession], part: str) -> list[StatefulSession]:
        return [Timed(session, self.laps, part) for session in sessions]


def unmerged(hidden: Floats, width: int) -> MergedTokens:
    """Every cell of [T', N, C] as a token of its own; `width` is that of the grid."""
    frames, cells, channels = hidden.shape
    t, cell = np.divmod(np.arange(frames * cells), cells)
    y, x = np.divmod(cell, width)
    nothing = np.zeros(2, np.float32)
    return MergedTokens(
        tokens=hidden.reshape(-1, channels),
        token_box=np.stack([t, y, x, y + 1, x + 1], 1).astype(np.int32),
        token_patches=np.ones(frames * cells, np.int32),
        assignment=np.arange(frames * cells, dtype=np.int32).reshape(frames, cells),
        thresholds=nothing,
        converged=True,
        margins=nothing,
        max_tokens=frames * cells,
    )


class Asked:
    """What is timed of a language model: each method is one run of a candidate.

    Args:
        decoder: loaded.
        merger: runs the token merger.
        feed: its inputs for the clip.
        inputs: the clip.
    """

    def __init__(self, decoder: Decoder, merger: StatefulSession, feed: Arrays, inputs: Inputs) -> None:
        bundle = decoder.bundle
        self.laps, self._inputs, self._prompt = decoder.laps, inputs, prompt_of(bundle, inputs)
        self._merger, self._feed, self._merge = merger, feed, bundle.merge
        width = bundle.model.grid.width
        self._models = {
            MERGED: decoder.model(MERGED, self._merged),
            ALL: decoder.model(ALL, lambda hidden: unmerged(hidden, width)),
        }
        self._answer: Iterator[int] = iter(())
        self._merging: Merge = self._merge_clip

    @property
    def work(self) -> dict[str, str]:
        """What the runs do."""
        prompt = self._prompt
        text = len(prompt.before) + len(prompt.behind) + len(prompt.question)
        return {
            FIRST: f"the clip, {text} tokens of text and the head",
            FURTHER: f"{len(prompt.question)} tokens of a question and the head",
            DECODE: "one token through all layers and the head",
        }

    def first(self, way: str) -> Parts:
        """Read the clip and the question, up to the first token."""
        return self._noted(lambda: self._read(way, self._inputs.features, self._merge_clip))

    def see(self, way: str, look: Callable[[], Floats], merge: Merge) -> Parts:
        """The same, of features that are made of frames; `merge` merges what the layers below made of them."""
        return self._noted(lambda: self._read(way, self.laps.add(FEATURES, look), merge))

    def further(self) -> Parts:
        """Ask again about the video that has been read."""
        return self._noted(lambda: self._ask(MERGED))

    def decode(self) -> Parts:
        """Go on with the answer; what one token takes, on average of a few."""
        tokens = self._prompt.room - 1
        self._ask(MERGED)
        self.laps.take()
        taken = self._noted(lambda: [next(self._answer) for _ in range(tokens)])
        return {name: value / tokens for name, value in taken.items()}

    def _read(self, way: str, features: Floats, merge: Merge) -> None:
        self._merging = merge
        self._models[way].watch(self._prompt.before, features.astype(np.float32), self._prompt.behind)
        self._ask(way)

    def _merged(self, hidden: Floats) -> MergedTokens:
        return self.laps.add(MERGING, lambda: self._merging(hidden))

    def _merge_clip(self, _hidden: Floats) -> MergedTokens:
        """Merge the clip's own hidden states: those that come without a video are made up."""
        return MergedTokens.from_outputs(self._merger.run(self._feed), self._inputs.steps, self._merge)

    def _ask(self, way: str) -> None:
        self._answer = self._models[way].ask(
            self._prompt.question, self._prompt.room, lambda logits: int(logits.argmax())
        )
        next(self._answer)

    def _noted(self, function: Callable[[], object]) -> Parts:
        self.laps.take()
        taken = milliseconds(function)
        return {WHOLE: taken, **self.laps.take()}

    @property
    def can_decode(self) -> bool:
        """Whether there is room for a second token."""
        return self._prompt.room > 1


def measure_decoder(asked: Asked, limits: Limits, told: Told) -> list[Figure]:
    """Time first token, further question, decoding and the first token with all tokens, in turns."""
    keys = {(FIRST, MERGED): lambda: asked.first(MERGED), (FURTHER, ""): asked.further}
    if asked.can_decode:
        keys[DECODE, ""] = asked.decode
    keys[FIRST, ALL] = lambda: asked.first(ALL)
    calls: dict[str, Candidate] = {f"{name} {way}".rstrip(): call for (name, way), call in keys.items()}
    found = measure(calls, limits, told)
    rows = zip(keys, found.values(), strict=True)
    return [Figure.of(name, way, asked.work[name], measured) for (name, way), measured in rows]


def compute_decoder(bundle: Bundle, figures: Sequence[Figure]) -> Iterator[Computed]:
    """What merging saves, and what buffers of full size would cost where layers below the merge layer tell."""
    by_key = {(figure.name, figure.way): figure for figure in figures}
    merged, whole = by_key[FIRST, MERGED].times.median, by_key[FIRST, ALL].times.median
    yield computed("first token, of all tokens", 100 * merged / whole, "%", "medians of the same run; an upper bound")
    recipe = bundle.manifest.recipe
    below, layers = recipe.merge_layer, recipe.decoder.layers
    if not below:
        return
    how = f"the median, with layers above as slow as the {below} below, whose buffers have slots for all tokens"
    titles = {(FIRST, ALL): "first token, all tokens, full buffers", (DECODE, ""): "decode, full buffers"}
    for (name, way), title in titles.items():
        figure = by_key.get((name, way))
        if figure is None:
            continue
        each = figure.parts[BELOW].median / below
        full = figure.times.median - figure.parts[ABOVE].median + each * (layers - below)
        yield computed(title, full, "ms", how)
        if name == FIRST:
            yield computed("first token, of that", 100 * merged / full, "%", "its median over the computed one")
