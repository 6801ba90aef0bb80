"""The parts of a language model: groups of layers below the token merger and above it, and the head.

What a clip has become on its way: `system`, the embeddings of the text before the video, [S0, C]; `features`, what
merges, [T', N, C]; `hidden`, the residual stream behind the last group, [S, C]. Groups below the merge layer see the
whole prompt, because its merging is judged. Behind it a first chunk is enough: attention is causal, so those rows are
what they are in the whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.decoding import Span
from sttm_export.contracts.graph import CLIP, FLOAT_OF, GraphSpec, Judge, JudgedGraph
from sttm_export.contracts.model import counted
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.int4_parts import group_quantizing, head_quantizing, product_of, reference_weights, stored
from sttm_export.families.modules import as_stage, build_module
from sttm_export.families.part import Array, Arrays, Case, Part, Progress, State
from sttm_export.language.checkpoint import group_shapes, head_shapes, module_state
from sttm_export.language.decoder import DecoderGroup, Head
from sttm_export.language.positions import Ints, Policy, Prompt, cells_of, merged_positions, prompt_positions
from sttm_export.language.reference import ReferenceGroup, reference_head
from sttm_export.language.rotary import rotary_tables
from sttm_export.language.rows import padded, rows_through
from sttm_export.runtime.session import Session, StatefulSession

Floats = NDArray[np.float32]
# Some channels of a trained decoder's residual stream reach this; its square is past float16.
_OUTLIER = 1e4
# Queries and keys of random weights have elements of size 2, so that attention is sharp (`weights/spread.py`).
_SCORES = 4.0
# Slots that are filled before the rows of a case, where there are so many: few, so that a fixture is mostly zeros.
_PAST = 48
# Its square is next to nothing beside the eps of a norm; smaller numbers are denormal on the way, and slow.
_LEAST = 1e-20


def language_parts(recipe: Recipe) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
    """Parts before the token merger and behind it; none where the language model is not exported."""
    below = tuple(_group_part(recipe, span) for span in recipe.below)
    above = tuple(_group_part(recipe, span) for span in recipe.above)
    return below, (*above, _head_part(recipe)) if recipe.decoding else ()


def _group_part(recipe: Recipe, span: Span) -> Part:
    spec, rows = recipe.decoder, _Rows(recipe, span)
    layers = span[1] - span[0]
    # A gate counts eight stored tensors a layer (`validation/gates.py`); attention and MLP have as many each.
    declared = recipe.group_graph(span)
    longest = max(spec.intermediate_size, declared.kept[0].shape[1])
    judge = Judge("floats", 2 * layers, longest, FLOAT_OF[recipe.precision], _SCORES)
    graph = JudgedGraph.of(declared, judge, layers)

    def build(state: State) -> DecoderGroup:
        weights = module_state(stored(recipe, state))
        return build_module(lambda: DecoderGroup(spec, *span, product_of(recipe)), weights, recipe.precision)

    return Part(
        graph=graph,
        shapes=group_shapes(spec, *span),
        module=build,
        eager=lambda state: as_stage(build(state), graph),
        reference=lambda state: as_stage(ReferenceGroup(spec, reference_weights(recipe, state), *span), graph),
        cases=rows.cases,
        forward=rows.forward,
        calls=rows.calls,
        quantizing=group_quantizing(recipe, span, rows.given),
        operations=2 * graph.row_counts[0] * spec.layer_parameters * layers,
        activations=_activations(graph, spec.heads),
    )


def _head_part(recipe: Recipe) -> Part:
    spec = recipe.decoder
    graph = JudgedGraph.of(recipe.head_graph, Judge("floats", 1, spec.hidden_size, FLOAT_OF[recipe.precision]))

    def build(state: State) -> Head:
        weights = module_state(stored(recipe, state))
        return build_module(lambda: Head(spec, product_of(recipe)), weights, recipe.precision)

    def cases(clip: Arrays) -> Iterator[Case]:
        last = _floats(clip, "hidden")[-1:]
        yield Case(CLIP, "the last row of a prompt", {"hidden": last})
        yield Case("edges", "a row with a large channel", {"hidden": _with_outlier(last)}, edge=True)

    return Part(
        graph=graph,
        shapes=head_shapes(spec),
        module=build,
        eager=lambda state: as_stage(build(state), graph),
        reference=lambda state: as_stage(reference_head(spec, reference_weights(recipe, state)), graph),
        cases=cases,
        forward=lambda session, clip, _: session.run({"hidden": _floats(clip, "hidden")[-1:]}),
        calls=lambda _: 1,
        quantizing=head_quantizing(recipe),
        operations=2 * spec.vocabulary * spec.hidden_size,
    )


@dataclass(frozen=True)
class _Rows:
    """Rows of a prompt on their way through one group of layers."""

    recipe: Recipe
    span: Span

    @property
    def graph(self) -> GraphSpec:
        """Of the group."""
        return self.recipe.group_graph(self.span)

    @property
    def is_below(self) -> bool:
        """Whether tokens merge behind this group."""
        return self.span in self.recipe.below

    def calls(self, frames: int) -> int:
        """Calls of the graph that a clip of so many frames takes, the text before it left out."""
        model = self.recipe.model
        rows = frames // model.frames_per_step * model.grid.cells
        return -(-rows // self.graph.row_counts[0]) if self.is_below else 1

    def given(self, clip: Arrays) -> tuple[Floats, Ints]:
        """Rows that go in, [S, C], and their positions, [P, S]."""
        layer, system = self.recipe.merge_layer, _floats(clip, "system")
        prompt = self._prompt(len(system), len(clip["features"]))
        policy = cast("Policy", self.recipe.model.merging.positions)
        whole = prompt_positions(prompt, policy)
        if self.is_below:
            first = self.span[0] == 0
            return (_joined(system, _floats(clip, "features")) if first else _floats(clip, "hidden")), whole
        count = int(clip["num_tokens"])
        places = merged_positions(
            whole, prompt, cells_of(np.asarray(clip["token_box"], np.int64)[:count], prompt), policy
        )
        if self.span[0] > layer:
            hidden = _floats(clip, "hidden")
        else:
            before = _floats(clip, "hidden")[: len(system)] if layer else system
            hidden = _joined(before, _floats(clip, "tokens")[:count])[: self.graph.row_counts[0]]
        return hidden, places[:, : len(hidden)]

    def cases(self, clip: Arrays) -> Iterator[Case]:
        """A first chunk, fewer rows behind others, and a chunk at the end of the buffers that rounding is hard for."""
        hidden, places = self.given(clip)
        chunk, slots = self.graph.row_counts[0], self.graph.kept[0].shape[1]
        first, some = hidden[:chunk], places[:, :chunk]
        yield Case(CLIP, counted(len(first), "row"), self._inputs(chunk, first, some, 0, 0))
        past = min(_PAST, slots - chunk)
        for rows in self.graph.row_counts[1:]:
            last = self._inputs(rows, hidden[-rows:], places[:, -rows:], past, past)
            yield Case(f"rows_{rows}", f"{counted(rows, 'row')} behind {past}", last, edge=True)
        end = np.tile(np.arange(slots - chunk, slots), (len(places), 1))
        hard = self._inputs(chunk, _hard(np.resize(first, (chunk, first.shape[1]))), end, slots - chunk, past)
        yield Case("edges", "rows of zeros and large channels at the end of the buffers", hard, edge=True)

    def forward(self, session: Session, clip: Arrays, progress: Progress) -> Arrays:
        """Run the rows through the group; behind the last one below, the video's are what merges."""
        hidden, places = self.given(clip)
        keeping = cast("StatefulSession", session)
        keeping.reset()
        made = rows_through(keeping, self.recipe.decoder, hidden, places, 0, progress)
        if self.is_below and self.span[1] == self.recipe.merge_layer:
            video = made[len(clip["system"]) :]
            return {"hidden": made, "features": video.reshape(len(clip["features"]), -1, video.shape[1])}
        return {"hidden": made}

    def _prompt(self, system: int, frames: int) -> Prompt:
        grid = self.recipe.model.grid
        return Prompt(system, frames, grid.height, grid.width, 0)

    def _inputs(self, rows: int, hidden: Floats, places: Ints, slot: int, past: int) -> Arrays:
        """Inputs of one call, padded with zeros to `rows`; `past` slots of the buffers are filled with noise."""
        cos, sin = rotary_tables(self.recipe.decoder, places)
        feed = {"hidden": hidden, "cos": cos, "sin": sin}
        inputs: dict[str, Array] = {name: padded(rows, array) for name, array in feed.items()}
        noise = np.random.default_rng(0)
        for tensor in self.graph.kept:
            buffer = np.zeros(tensor.shape, tensor.dtype)
            buffer[:, :past] = noise.standard_normal((tensor.shape[0], past, tensor.shape[2]), np.float32)
            inputs[tensor.name] = buffer
        return {**inputs, "slots": np.arange(slot, slot + rows, dtype=np.int32)}


def _hard(rows: Floats) -> Floats:
    """Every third row has a channel that trained decoders have; one is zero, one next to nothing."""
    hard = rows.copy()
    hard[::3] = _with_outlier(hard[::3])
    hard[1], hard[-1] = 0.0, _LEAST
    return hard


def _with_outlier(rows: Floats) -> Floats:
    large = rows.copy()
    large[:, large.shape[1] // 2] = _OUTLIER
    return large


def _joined(system: Floats, video: Floats) -> Floats:
    return np.concatenate([system, video.reshape(-1, system.shape[1])])


def _floats(clip: Arrays, name: str) -> Floats:
    return np.asarray(clip[name], np.float32)


def _activations(graph: GraphSpec, heads: int) -> int:
    """Float32 bytes of one chunk: scores of every head twice, and the buffers as given and as written."""
    chunk, slots = graph.row_counts[0], graph.kept[0].shape[1]
    return 4 * 2 * heads * chunk * slots + 3 * sum(2 * tensor.nbytes for tensor in graph.kept)
