"""Encoder and merger in ONNX Runtime, in turns, and what follows of it: what merging costs, and when it pays."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import STORAGE, TOKEN_MERGER, VISION_ENCODER
from sttm_export.contracts.model import counted
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.pipeline import merger_inputs
from sttm_export.runtime.session import Arrays
from sttm_export.system import size_text
from sttm_export.timing.clock import Limits, Told, measure, timed
from sttm_export.timing.inputs import Inputs
from sttm_export.timing.request import Request
from sttm_export.timing.result import Computed, Figure, computed
from sttm_export.workflows.viewing import thresholds

ENCODER, MERGER = "encoder", "merger"


def graph_inputs(bundle: Bundle, request: Request, inputs: Inputs) -> dict[str, Arrays]:
    """One call of the encoder and one of the merger, by the names of their graphs."""
    given, graph = thresholds(bundle, request), bundle.graph(TOKEN_MERGER)
    return {
        VISION_ENCODER: {bundle.graph(VISION_ENCODER).inputs[0].name: inputs.pixels},
        TOKEN_MERGER: merger_inputs(graph, inputs.merging, inputs.steps, given.spatial, given.temporal),
    }


def merge_once(bundle: Bundle, loader: Loader, feeds: dict[str, Arrays], steps: int) -> tuple[MergedTokens, str]:
    """Merge the clip; return what became of it, and what ran it."""
    with loader.open(TOKEN_MERGER) as session:
        outputs = session.run(feeds[TOKEN_MERGER])
        return MergedTokens.from_outputs(outputs, steps, bundle.merge), session.backend


def works(bundle: Bundle, inputs: Inputs) -> dict[str, str]:
    """What one run of encoder and merger does, by the names of their graphs."""
    batch, step = bundle.graph(VISION_ENCODER).inputs[0].shape[0], bundle.model.step
    cells = inputs.steps * bundle.merge.cells
    return {
        VISION_ENCODER: f"one call, {counted(batch, 'frame')}",
        TOKEN_MERGER: f"one call, {counted(inputs.steps, step)}, {cells} tokens",
    }


def measure_vision(
    bundle: Bundle, loader: Loader, feeds: dict[str, Arrays], inputs: Inputs, limits: Limits, told: Told
) -> list[Figure]:
    """Time a call of the encoder and one of the merger, in turns."""
    titles, work = {ENCODER: VISION_ENCODER, MERGER: TOKEN_MERGER}, works(bundle, inputs)
    with loader.open(VISION_ENCODER) as encoder, loader.open(TOKEN_MERGER) as merger:
        sessions = {ENCODER: encoder, MERGER: merger}
        calls = {name: timed(partial(sessions[name].run, feeds[graph])) for name, graph in titles.items()}
        found = measure(calls, limits, told)
    return [Figure.of(name, "", work[titles[name]], measured) for name, measured in found.items()]


def compute_vision(
    bundle: Bundle, inputs: Inputs, merged: MergedTokens, encoder: Figure, merger: Figure
) -> Iterator[Computed]:
    """What the clip costs, what merging adds to it, and what it hands on."""
    batch = bundle.graph(VISION_ENCODER).outputs[0].shape[0]
    calls, kept, cells = -(-inputs.steps // batch), merged.num_tokens, merged.assignment.size
    whole, once = calls * encoder.times.median, merger.times.median
    step = bundle.model.step
    yield computed("encoding the clip", whole, "ms", f"{counted(calls, 'call')} times the encoder's median")
    yield computed("merger, of encoding", 100 * once / whole, "%", "its median over that")
    yield computed("tokens kept", 100 * kept / cells, "%", f"{kept} of {cells}, {counted(inputs.steps, step)}")
    row = bundle.merge.channels * STORAGE[bundle.graph(TOKEN_MERGER).outputs[0].dtype].nbytes
    handed = f"{size_text(kept * row)} instead of {size_text(cells * row)}"
    yield computed("tokens handed on", kept * row / 2**20, "MiB", handed)
    if kept < cells:
        how = "the merger's median over the tokens that are saved: where a token of prefill takes longer, merging pays"
        yield computed("break-even", once / (cells - kept) * 1e3, "µs a token", how)
