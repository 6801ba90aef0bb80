"""The drift finder: which tensor of a bundle's graph leaves its band first, and which PyTorch module it came from.

Two passes over a graph (docs/drift.md says why, and how each tensor is judged):

1. The whole graph, with the ends of its blocks marked, against the traced module in float32. This is the graph as it
   runs, operators fused. A graph without such ends (the token merger) has no first pass.
2. Step by step from the start, every tensor marked, each against what PyTorch makes of the candidate's own inputs.

Read on in `reference.py` (what a tensor should hold), `parts.py` (how tensors inside of a graph are had) and
`checks.py` (when one is out of its band).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import rows_of
from sttm_export.drift.checks import Check, Place, check_tensor
from sttm_export.drift.parts import Chain, link_weights, write_part
from sttm_export.drift.report import DriftReport
from sttm_export.drift.sessions import Factory, ort_factory
from sttm_export.errors import UserError, ValidationMiss, did_you_mean, in_lines
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.runtime.finiteness import nonfinite
from sttm_export.terminal import Advance, Steps
from sttm_export.validation.gates import format_of_sums
from sttm_export.workflows.bundle_weights import bundle_weights

if TYPE_CHECKING:
    from sttm_export.drift.reference import Reference

Array = NDArray[np.generic]
# Marked tensors of one run, in bytes; the reference holds them once more in float32.
LIMIT = 256 << 20
# How many tensors the report keeps, that which is out of its band among them.
_SHOWN = 6


def bisect_graph(
    bundle: Bundle,
    name: str,
    steps: Steps,
    *,
    weights: str | None = None,
    tower_weights: str | None = None,
    factory: Factory | None = None,
) -> DriftReport:
    """Find the first tensor of one graph that leaves its band, on the bundle's fixture.

    Args:
        bundle: opened.
        name: of the graph.
        steps: shows progress.
        weights: checkpoint of the bundle; not needed for random weights and for the token merger.
        tower_weights: the tower's own checkpoint, if it was given.
        factory: makes a session of a part of the graph (default: ONNX Runtime on the CPU).

    Raises:
        UserError: no fixtures, weights missing or others than the bundle's, or a graph that this PyTorch does not make.
        ValidationMiss: the packed inputs are not finite.
    """
    fixture = bundle.fixture_path(name)
    if not fixture.is_file():
        raise UserError(
            f"{bundle.path} has no fixtures, which --bisect runs on; export the bundle again without --no-validation."
        )
    inputs, _ = read_fixture(fixture, bundle.graph(name))
    _refuse_nonfinite(fixture, inputs)
    with steps.step(f"Trace {name} in PyTorch"):
        chain = Chain(bundle.onnx_path(name), rows_of(bundle.graph(name).fed, inputs))
        reference = _reference(bundle, name, weights, tower_weights)
        _check_same_graph(chain, reference, bundle, name)
    with steps.step(f"Search {name}") as advance, tempfile.TemporaryDirectory(prefix="sttm-bisect-") as folder:
        link_weights(bundle.onnx_path(name), Path(folder))
        return Search(chain, reference, inputs, Path(folder), factory or ort_factory(), advance=advance).run(name)


@dataclass
class Search:
    """One search through one graph."""

    chain: Chain  # the candidate's graph
    reference: Reference  # the module it was exported from
    inputs: Mapping[str, Array]  # by the names of the graph's inputs
    folder: Path  # where parts are written; holds the weights (`link_weights`)
    factory: Factory  # makes a session of a part of the graph
    limit: int = LIMIT  # bytes of marked tensors a run
    advance: Advance = lambda _what, _fraction: None  # told how far the search is
    backend: str = field(default="", init=False)
    runs: int = field(default=0, init=False)

    def run(self, name: str) -> DriftReport:
        """Both passes; `name` is the graph's, for the report."""
        boundaries = list(until_out(self.whole()))
        stop = len(self.chain.operators)
        if boundaries and not boundaries[-1].passed:
            stop = self.chain.tensors[boundaries[-1].place.tensor].made + 1
        checks = list(until_out(self.step_by_step(stop)))
        tensors, covered = len(self.chain.tensors), len(self.reference.counterparts)
        return DriftReport(name, self.backend, boundaries, checks[-_SHOWN:], len(checks), tensors, covered, self.runs)

    def whole(self) -> Iterator[Check]:
        """First pass: ends of blocks in the graph as it runs, against the module without float16."""
        names = [name for name in self.chain.boundaries() if name in self.reference.counterparts]
        if len(names) < 2:
            return
        made: dict[str, Array] = {}
        for group in self.chain.in_groups(names, self.limit):
            self.advance(f"whole graph, up to {group[-1]}", 0.0)
            made |= self._run_part(group, self.inputs)
        for name, expected in self.reference.run(self.inputs, names):
            place = self._place(name, blocks=names.index(name) + 1)
            self.advance(f"whole graph, {place.module}", 0.4 * place.blocks / len(names))
            yield check_tensor(made.pop(name), expected, place)

    def step_by_step(self, stop: int) -> Iterator[Check]:
        """Second pass: every tensor of the operators before `stop`, against PyTorch on the candidate's own inputs."""
        self.reference.start(self.inputs)
        alive: dict[str, Array] = dict(self.inputs)
        for group in self.chain.in_groups(self.chain.marks(stop), self.limit):
            start = self.chain.tensors[group[0]].made
            what = f"step by step, operator {start} of {len(self.chain.operators)}"
            self.advance(what, 0.4 + 0.6 * start / stop)
            alive = {name: value for name, value in alive.items() if self.chain.last_use.get(name, -1) >= start}
            made = self._run_part(group, alive, start)
            for name, expected, undefined in self.reference.step(made):
                yield check_tensor(made[name], expected, self._place(name), undefined)
            alive |= made

    def _run_part(self, marks: Sequence[str], values: Mapping[str, Array], start: int = 0) -> dict[str, Array]:
        path, graph = write_part(self.chain, marks, self.folder, start)
        session = self.factory(path, graph)
        try:
            self.backend, self.runs = session.backend, self.runs + 1
            made = session.run({tensor.name: values[tensor.name] for tensor in graph.inputs})
        finally:
            # Sessions on a GPU hold memory that is not garbage-collected.
            getattr(session, "close", lambda: None)()
        return {mark: made[mark] for mark in marks}

    def _place(self, name: str, blocks: int = 0) -> Place:
        """Where a tensor comes from; at the end of a block the longest sum is that of every tensor so far."""
        tensor, tensors = self.chain.tensors[name], self.chain.tensors.values()
        before = [row for row in tensors if row.made <= tensor.made] if blocks else [tensor]
        longest, int8 = max(row.summed for row in before), any(row.dtype == "int8" for row in before if blocks)
        # A float32 output, as logits are, may come out of float16 ones.
        through = "float16" if blocks and any(row.dtype == "float16" for row in before) else ""
        sums = format_of_sums(through or tensor.dtype, self.reference.accumulate, self.backend)
        return Place(name, tensor.op, *self.reference.origin(name), tensor.dtype, longest, blocks, sums, int8, through)


def until_out(checks: Iterable[Check]) -> Iterator[Check]:
    """Pass checks on up to the first that is out of its band; none is asked for, and so none computed, after it."""
    for check in checks:
        yield check
        if not check.passed:
            return


def _refuse_nonfinite(path: Path, inputs: Mapping[str, Array]) -> None:
    """Every tensor behind such inputs would be out of its band, which says nothing about the graph."""
    for name, array in inputs.items():
        if fault := nonfinite(array):
            again = "Export the bundle again: it packs finite inputs only."
            raise ValidationMiss(in_lines([f"{name} in {path} is damaged, nothing was searched.", f"{fault}.", again]))


def _check_same_graph(chain: Chain, reference: Reference, bundle: Bundle, name: str) -> None:
    """Names of nodes carry module, operator and position: if all are equal, tensors correspond by name."""
    pairs = zip_longest(chain.node_names, reference.node_names, fillvalue="the end")
    for place, (there, here) in enumerate(pairs):
        if there != here:
            made_with = bundle.manifest.versions.get("torch", "another version")
            raise UserError(
                f"{name}.onnx is not what this PyTorch exports: node {place} is {there}, here it would be {here}; "
                f"bisect with torch {made_with}, which the bundle was exported with, or export the bundle again."
            )


def chosen_graphs(bundle: Bundle, name: str) -> tuple[str, ...]:
    """Graphs that `--bisect [GRAPH]` asks for.

    Raises:
        UserError: no graph of the bundle has this name.
    """
    names = tuple(graph.name for graph in bundle.manifest.graphs)
    if name == "all":
        return names
    if name not in names:
        raise UserError(
            f"--bisect knows no graph '{name}'.{did_you_mean(name, names)} A bundle's path goes before --bisect."
        )
    return (name,)


def searchable(bundle: Bundle, graphs: tuple[str, ...], steps: Steps) -> tuple[str, ...]:
    """Leave out, aloud, a graph without a fixture: an encoder whose features are not finite leaves the merger none."""
    found = tuple(name for name in graphs if bundle.fixture_path(name).is_file())
    for name in graphs if found else ():
        if name not in found:
            steps.say(f"{name} is not searched: the bundle has no fixture of it")
    return found or graphs


def _reference(bundle: Bundle, name: str, weights: str | None, tower_weights: str | None) -> Reference:
    """The module that was exported, traced, with the weights it was exported with."""
    from sttm_export.drift.reference import Reference
    from sttm_export.families.registry import parts_of

    part = next(part for part in parts_of(bundle.recipe) if part.name == name)
    free = [row.name for row in bundle.manifest.graphs if not row.weights_sha256]
    otherwise = f"search the other graph with --bisect {free[0]}, which has no weights" if free else "search no graph"
    state = bundle_weights(bundle, (part,), weights, tower_weights, otherwise)(part)
    return Reference(part.module(state), bundle.graph(name), bundle.manifest.accumulate)
