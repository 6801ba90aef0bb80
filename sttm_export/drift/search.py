"""The drift finder: which tensor of a bundle's graph leaves its band first, and which PyTorch module it came from.

Two passes over a graph (docs/drift.md):

1. The whole graph, with the ends of its blocks marked, against the traced module in float32. This is the graph as it
   runs, operators fused; it bounds the search, and sees errors that only add up or only fusing makes. A graph without
   such ends (the token merger) has no first pass.
2. Step by step from the start, every tensor marked, each against what PyTorch makes of the candidate's own inputs, up
   to the first that is out of its band.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER, GraphSpec
from sttm_export.contracts.target import TargetSpec, find_target
from sttm_export.drift.checks import Check, DriftReport, Place, check_tensor, first_out
from sttm_export.drift.marking import Chain, in_groups, share_weights, write_part
from sttm_export.engines.build import available_api, build_engine
from sttm_export.engines.faults import UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.errors import UserError, ValidationMiss, did_you_mean, in_lines
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.providers import CPU
from sttm_export.runtime.session import Session
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.terminal import Advance, Steps
from sttm_export.validation.finiteness import nonfinite
from sttm_export.validation.gates import format_of_sums
from sttm_export.workflows.bundle_weights import load_bundle_weights

if TYPE_CHECKING:
    from sttm_export.drift.reference_trace import Reference

Array = NDArray[np.generic]
Factory = Callable[[Path, GraphSpec], Session]
GRAPHS = (VISION_ENCODER, TOKEN_MERGER)
ALL = "all"
# Marked tensors of one run, in bytes; the reference holds them once more in float32.
LIMIT = 256 << 20


def ort_factory(provider: str = CPU) -> Factory:
    """Run parts with ONNX Runtime."""
    return lambda path, graph: OrtSession(path, graph, provider=provider, low_memory=True)


def engine_factory(bundle: Bundle, name: str | None) -> Factory:
    """Build each part into an engine on this machine and run that.

    Args:
        bundle: its targets are looked through for one whose engines are built and run here.
        name: a target, instead.

    Raises:
        UserError: no GPU, or no target of these has a TensorRT here that builds for it.
    """
    capability = gpu_capability()
    if capability is None:
        raise UserError("--bisect --engine builds and runs engines, and there is no GPU here; leave --engine out.")
    target = _target_here([name] if name else bundle.manifest.targets, capability)

    def make(path: Path, graph: GraphSpec) -> Session:
        engine = path.with_suffix(".engine")
        result = build_engine(path, target, capability if target.builds_without_gpu else None, engine)
        if result.status != "built":
            raise UserError(f"A part of the graph could not be built for {target.name}: {result.reason}")
        return TrtSession(engine, graph)

    return make


def _target_here(names: Sequence[str], capability: str) -> TargetSpec:
    reasons = []
    for name in names:
        target = find_target(name)
        if capability not in target.compute_capabilities:
            reasons.append(f"{name}: it is not for {capability}")
            continue
        try:
            available_api(target)
        except UnavailableError as error:
            reasons.append(f"{name}: {str(error).rstrip('.')}")
        else:
            return target
    raise UserError(f"No engine can be built and run here ({'; '.join(reasons)}); give another --target.")


def chosen_graphs(name: str) -> tuple[str, ...]:
    """Graphs that `--bisect [GRAPH]` asks for.

    Raises:
        UserError: no graph of a bundle has this name.
    """
    if name == ALL:
        return GRAPHS
    if name not in GRAPHS:
        raise UserError(
            f"--bisect knows no graph '{name}'.{did_you_mean(name, GRAPHS)} A bundle's path goes before --bisect."
        )
    return (name,)


def searchable(bundle: Bundle, graphs: tuple[str, ...], steps: Steps) -> tuple[str, ...]:
    """Leave out, aloud, a graph without a fixture: an encoder whose features are not finite leaves the merger none."""
    found = tuple(name for name in graphs if bundle.fixture_path(name).is_file())
    if not found or found == graphs:
        return graphs
    steps.total -= 2 * (len(graphs) - len(found))
    for name in graphs:
        if name not in found:
            steps.say(f"{name} is not searched: the bundle has no fixture of it")
    return found


def bisect_graph(
    bundle: Bundle,
    name: str,
    steps: Steps,
    *,
    weights: str | None = None,
    tower_weights: str | None = None,
    factory: Factory | None = None,
    limit: int = LIMIT,
) -> DriftReport:
    """Find the first tensor of one graph that leaves its band, on the bundle's fixture.

    Args:
        bundle: opened.
        name: of the graph.
        steps: shows progress.
        weights: checkpoint of the bundle; not needed for random weights and for the token merger.
        tower_weights: the tower's own checkpoint, if it was given.
        factory: makes a session of a part of the graph (default: ONNX Runtime on the CPU).
        limit: bytes of marked tensors a run.

    Raises:
        UserError: no fixtures, weights missing or others than the bundle's, or a graph that this PyTorch does not make.
        ValidationMiss: the packed inputs are not finite.
    """
    if not bundle.fixture_path(name).is_file():
        raise UserError(
            f"{bundle.path} has no fixtures, which --bisect runs on; export the bundle again without --no-validation."
        )
    inputs, _ = read_fixture(bundle.fixture_path(name), bundle.graph(name))
    _refuse_nonfinite(bundle.fixture_path(name), inputs)
    with steps.step(f"Trace {name} in PyTorch"):
        chain = Chain(bundle.onnx_path(name))
        reference = _reference(bundle, name, weights, tower_weights)
        _check_same_graph(chain, reference, bundle, name)
    with steps.step(f"Search {name}") as advance, tempfile.TemporaryDirectory(prefix="sttm-bisect-") as folder:
        share_weights(chain, Path(folder))
        search = Search(chain, reference, inputs, factory or ort_factory(), Path(folder), limit, advance)
        return search.run(name)


def _refuse_nonfinite(path: Path, inputs: Mapping[str, Array]) -> None:
    """Every tensor behind such inputs would be out of its band, which says nothing about the graph."""
    for name, array in inputs.items():
        if fault := nonfinite(array):
            again = "Export the bundle again: it packs finite inputs only."
            raise ValidationMiss(in_lines([f"{name} in {path} is damaged, nothing was searched.", f"{fault}.", again]))


class Search:
    """One search through one graph.

    Args:
        chain: the candidate's graph.
        reference: the module it was exported from.
        inputs: by the names of the graph's inputs.
        factory: makes a session of a part of the graph.
        folder: where parts are written; must hold the weights (`share_weights`).
        limit: bytes of marked tensors a run.
        advance: told how far the search is.
    """

    def __init__(
        self,
        chain: Chain,
        reference: Reference,
        inputs: Mapping[str, Array],
        factory: Factory,
        folder: Path,
        limit: int,
        advance: Advance,
    ) -> None:
        self.chain, self.reference, self.inputs = chain, reference, inputs
        self.factory, self.folder, self.limit, self.advance = factory, folder, limit, advance
        self.backend, self.runs = "", 0

    def run(self, name: str) -> DriftReport:
        """Both passes; `name` is the graph's, for the report."""
        boundaries, _ = first_out(self.whole(), before=len(self.chain.tensors))
        stop = len(self.chain.nodes)
        if boundaries and not boundaries[-1].passed:
            stop = self.chain.tensors[boundaries[-1].place.tensor].node + 1
        checks, compared = first_out(self.step_by_step(stop))
        tensors, covered = len(self.chain.tensors), len(self.reference.counterparts)
        return DriftReport(name, self.backend, boundaries, checks, compared, tensors, covered, self.runs)

    def whole(self) -> Iterator[Check]:
        """First pass: ends of blocks in the graph as it runs, against the module without float16."""
        names = [name for name in self.chain.boundaries() if name in self.reference.counterparts]
        if len(names) < 2:
            return
        made: dict[str, Array] = {}
        for group in in_groups(names, self.chain, self.limit):
            self.advance(f"whole graph, up to {group[-1]}", 0.0)
            made.update(self._run_part(self.chain.inputs, group, self.inputs))
        # What ran it is known by now, and with it what sums were made in.
        places = dict(zip(names, self._block_places(names), strict=True))
        for name, expected in self.reference.run(self.inputs, names):
            self.advance(f"whole graph, {places[name].module}", 0.4 * places[name].blocks / len(names))
            yield check_tensor(made.pop(name), expected, places[name])

    def step_by_step(self, stop: int) -> Iterator[Check]:
        """Second pass: every tensor of the nodes before `stop`, against PyTorch on the candidate's own inputs."""
        self.reference.start(self.inputs)
        alive: dict[str, Array] = dict(self.inputs)
        for part in self.chain.steps(self.limit):
            if part.start >= stop:
                return
            self.advance(f"step by step, node {part.start} of {len(self.chain.nodes)}", 0.4 + 0.6 * part.start / stop)
            nodes = range(part.start, min(part.stop, stop))
            made = self._run_part(self.chain.feeds(nodes), self.chain.marks(nodes), alive)
            for name, (expected, undefined) in self.reference.step(made):
                yield check_tensor(made[name], expected, self._place(name), undefined)
            alive |= made
            kept = {*self.chain.alive(nodes.stop), *self.chain.inputs}
            alive = {name: value for name, value in alive.items() if name in kept}

    def _run_part(self, feeds: Sequence[str], marks: Sequence[str], values: Mapping[str, Array]) -> dict[str, Array]:
        path, graph = write_part(self.chain, feeds, marks, self.folder)
        session = self.factory(path, graph)
        try:
            self.backend, self.runs = session.backend, self.runs + 1
            made = session.run({tensor.name: values[tensor.name] for tensor in graph.inputs})
        finally:
            # Sessions on a GPU hold memory that is not garbage-collected.
            getattr(session, "close", lambda: None)()
        return {mark: made[mark] for mark in marks}

    def _place(self, name: str) -> Place:
        tensor, origin = self.chain.tensors[name], self.reference.origin(name)
        sums = format_of_sums(tensor.dtype, self.reference.accumulate, self.backend)
        module = f"{origin.module} ({origin.kind})" if origin.module else origin.kind
        return Place(name, tensor.op, module, origin.source, origin.code, tensor.dtype, tensor.summed, sums=sums)

    def _block_places(self, names: Sequence[str]) -> Iterator[Place]:
        """Places of boundaries: blocks are counted, the longest sum is that of every tensor so far."""
        for blocks, name in enumerate(names, 1):
            last = self.chain.tensors[name].node
            longest = max(tensor.summed for tensor in self.chain.tensors.values() if tensor.node <= last)
            yield replace(self._place(name), summed=longest, blocks=blocks)


def _reference(bundle: Bundle, name: str, weights: str | None, tower_weights: str | None) -> Reference:
    from sttm_export.drift.reference_trace import Reference

    return Reference(_module(bundle, name, weights, tower_weights), bundle.graph(name), bundle.accumulate)


def _module(bundle: Bundle, name: str, weights: str | None, tower_weights: str | None) -> Any:
    """The module that was exported, from the weights it was exported with."""
    from sttm_export.families.llava.vision_encoder import build_encoder
    from sttm_export.merging.static import TokenMerger

    if name == TOKEN_MERGER:
        return TokenMerger(bundle.merge)
    otherwise = "search the other graph with --bisect token_merger, which has no weights"
    state = load_bundle_weights(bundle, weights, tower_weights, otherwise)
    return build_encoder(bundle.model, state, bundle.manifest.precision)


def _check_same_graph(chain: Chain, reference: Reference, bundle: Bundle, name: str) -> None:
    """Names of nodes carry module, operator and position: if all are equal, tensors correspond by name."""
    here, there = reference.node_names, chain.node_names
    if here == there:
        return
    place, pair = next(
        ((i, pair) for i, pair in enumerate(zip(there, here, strict=False)) if pair[0] != pair[1]),
        (min(len(here), len(there)), ("the end", "the end")),
    )
    made_with = bundle.manifest.versions.get("torch", "another version")
    raise UserError(
        f"{name}.onnx is not what this PyTorch exports: node {place} is {pair[0]}, here it would be {pair[1]}; bisect "
        f"with torch {made_with}, which the bundle was exported with, or export the bundle again."
    )
