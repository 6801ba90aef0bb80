"""Engines by the clock of the GPU: each graph launched by kernels and as one CUDA graph, in turns, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sttm_export.bundle.records import read_sidecar
from sttm_export.contracts.decoding import HEAD
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER, GraphSpec
from sttm_export.contracts.model import counted
from sttm_export.contracts.recipe import Recipe
from sttm_export.engines.compatibility import flavour_of
from sttm_export.engines.cuda import KERNEL
from sttm_export.engines.driver import counted_calls
from sttm_export.errors import UserError
from sttm_export.language.rotary import rotary_tables
from sttm_export.runtime.session import Arrays
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.timing.clock import WHOLE, Candidate, Limits, Parts, Told, measure
from sttm_export.timing.result import Counts, Figure

LAUNCHED, ALONE, GRAPH = "launched", "without copies", "one CUDA graph"
_COPIES = ("cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2")


@dataclass(frozen=True)
class Call:
    """One call of a graph that is timed."""

    name: str  # of the figure
    graph: GraphSpec
    feed: Arrays
    work: str


def engine_calls(recipe: Recipe, feeds: Mapping[str, Arrays], works: Mapping[str, str]) -> Iterator[Call]:
    """Every graph of a bundle, and groups of layers with each of their numbers of rows.

    Args:
        recipe: of the bundle.
        feeds: inputs of encoder and merger, by their graphs.
        works: what their calls do.
    """
    titles = {VISION_ENCODER: "encoder", TOKEN_MERGER: "merger"}
    for graph in recipe.graphs:
        if graph.name in feeds:
            yield Call(titles[graph.name], graph, feeds[graph.name], works[graph.name])
        elif graph.name == HEAD:
            hidden = graph.inputs[0]
            yield Call("head", graph, {hidden.name: np.ones(hidden.shape, np.float32)}, "logits of one row")
        else:
            for rows in graph.row_counts:
                yield Call(f"{graph.name}, {counted(rows, 'row')}", graph, rows_feed(recipe, rows), "its layers")


def rows_feed(recipe: Recipe, rows: int) -> Arrays:
    """So many rows at the front of the buffers; what they hold changes no time."""
    spec = recipe.decoder
    positions = np.tile(np.arange(rows), (3 if spec.mrope_section else 1, 1))
    cos, sin = rotary_tables(spec, positions)
    hidden = np.ones((rows, spec.hidden_size), np.float32)
    return {"hidden": hidden, "cos": cos, "sin": sin, "slots": np.arange(rows, dtype=np.int32)}


def measure_engine(call: Call, engine: Path, limits: Limits, told: Told) -> tuple[list[Figure], str]:
    """Time one call of an engine in all ways, and count what it asks of the GPU.

    Returns:
        The figures, and why there is none as a CUDA graph, if so.

    Raises:
        UserError: the engine does not load, or failed.
    """
    with ExitStack() as stack:
        session, captured, reason = _open(stack, call, engine)
        ways = {
            LAUNCHED: partial(session.measure, None, 1, captured=False),
            ALONE: partial(session.measure, None, 1, captured=False, copies=False),
        }
        if captured is not None:
            ways[GRAPH] = partial(captured.measure, None, 1)
        counts = _counts(session, ways)
        calls: dict[str, Candidate] = {way: partial(_parts, once) for way, once in ways.items()}
        found = measure(calls, limits, lambda what, share: told(f"{call.name}: {what}", share))
    figures = [
        Figure.of(call.name, way, call.work, measured, clock="gpu", counts=counts.get(way))
        for way, measured in found.items()
    ]
    return figures, reason


def _open(stack: ExitStack, call: Call, engine: Path) -> tuple[TrtSession, TrtSession | None, str]:
    """Return a session whose inputs are in place, one that launches a CUDA graph, and why there is none.

    Full TensorRT runs in both ways in one session: an edge GPU may have no room for two. TensorRT-RTX, which captures
    by itself, takes one for each.
    """
    if flavour_of(engine, read_sidecar(engine)) == "tensorrt-rtx":
        plain = _ready(stack, call, engine, cuda_graph=False)
        try:
            return plain, _ready(stack, call, engine, cuda_graph=True), ""
        except UserError as error:
            return plain, None, str(error)
    try:
        session = _ready(stack, call, engine, cuda_graph=True)
    except UserError as error:
        # What has nothing to do with the capture is met again.
        return _ready(stack, call, engine, cuda_graph=False), None, str(error)
    return session, session, ""


def _ready(stack: ExitStack, call: Call, engine: Path, *, cuda_graph: bool) -> TrtSession:
    """Open an engine and run it twice: state then has been in both of its buffers, and a graph captured for each.

    Raises:
        UserError: it does not load, failed, or cannot be captured; what it held is freed.
    """
    session = TrtSession(engine, call.graph, cuda_graph=cuda_graph)
    stack.callback(session.close)
    try:
        for _ in range(2):
            session.run(call.feed)
    except UserError:
        session.close()
        raise
    return session


def _parts(once: Callable[[], list[float]]) -> Parts:
    return {WHOLE: once()[0]}


def _counts(session: TrtSession, ways: Mapping[str, Callable[[], list[float]]]) -> dict[str, Counts]:
    """What one run asks of the GPU in each way; nothing where a run cannot be recorded, so that nobody knows it."""
    try:
        nodes = session.count_nodes()
    except UserError:
        return {}
    ends = len(session.graph.fed) + len(session.graph.fetched)
    found = {}
    for way, once in ways.items():
        launches = 1 if way == GRAPH else sum(nodes.values()) - ends
        found[way] = _asked(once, kernels=nodes[KERNEL], launches=launches)
    return found


def counted_run(run: Callable[[], object]) -> Counts | None:
    """What a run of several graphs asks of the GPU through this package; None where that is nothing, as on a CPU."""
    counts = _asked(run, kernels=None, launches=None)
    return counts if counts.synchronizations or counts.copies else None


def _asked(run: Callable[[], object], *, kernels: int | None, launches: int | None) -> Counts:
    with counted_calls() as calls:
        run()
    if launches is None:
        # Kernel by kernel they are TensorRT's own calls, which nobody sees.
        launches = calls["cuGraphLaunch"] or None
    copies = sum(calls[name] for name in _COPIES)
    return Counts(kernels, launches, copies, calls["cuStreamSynchronize"])
