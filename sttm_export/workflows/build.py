"""Engines for a bundle that exists: checked first, built aside, moved in whole for each target or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from sttm_export.bundle.kept import carry_over, carry_timings, check_strangers, engines_in_the_way, timings_notes
from sttm_export.bundle.opened import Bundle
from sttm_export.bundle.records import EngineRecord
from sttm_export.bundle.store import ENGINES, engines_staging, publish_engines
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.api import BuildOptions, UnavailableError
from sttm_export.engines.build import EngineRequest, build_engines, check_available, plan_engines
from sttm_export.engines.driver import gpu_capability
from sttm_export.engines.worker import KIT
from sttm_export.errors import UserError, in_lines
from sttm_export.files.names import check_component, check_links
from sttm_export.system import free_disk, size_text
from sttm_export.terminal import Steps

_RESERVE = 64 * 2**20


@dataclass(frozen=True)
class Request:
    """What to build."""

    targets: tuple[TargetSpec, ...]
    capabilities: tuple[str, ...] = ()
    """Compute capabilities asked for; empty for the defaults."""
    options: BuildOptions = field(default_factory=BuildOptions)
    force: bool = False
    """Whether engines that are there for the same compute capabilities may be replaced; others stay."""


def plan_build(bundle: Bundle, request: Request) -> list[EngineRequest]:
    """Return the engines to build; what cannot work is refused: options, machine, rules, engines in the way, disk.

    Who calls it, and then `build_bundle`, holds `only_builder` of the bundle.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    graphs = graphs_of(bundle)
    specs = bundle.manifest.graphs
    requests = plan_engines(graphs, request.targets, request.capabilities, request.options, specs)
    for target in request.targets:
        _check_target(bundle, target, [row for row in requests if row.target == target], force=request.force)
    # An engine is about as large as the weights of its graph.
    weights = sum(path.stat().st_size for graph in graphs for path in bundle.path.glob(f"{graph.name}*"))
    need, free = weights * len(requests) // len(graphs) + _RESERVE, free_disk(bundle.path)
    if free is not None and free < need:
        raise UserError(
            f"The engines need about {size_text(need)} and {bundle.path.resolve()} has {size_text(free)} free; free "
            "some space, or build fewer --target or --compute-capability at once."
        )
    return requests


def build_bundle(bundle: Bundle, requests: Sequence[EngineRequest], steps: Steps) -> list[EngineRecord]:
    """Build the engines of every target, one target after the other; return a record for every engine.

    Raises:
        UserError: an engine could not be built; its target stays as it was, those before it are there.
    """
    records, home = [], bundle.path
    for target, mine in groupby(requests, lambda request: request.target.name):
        with steps.step(f"Build engines for {target}") as advance, engines_staging(home, target) as partial:
            carry_timings(home, target, partial)
            built = build_engines(list(mine), partial.parent, advance)
            _refuse_failures(bundle, built)
            notes = timings_notes(home, target, partial, built[0])
            kept = carry_over(home, target, partial, built)
            publish_engines(home, target, partial, [*built, *kept.records])
        for line in [*notes, *kept.notes]:
            steps.say(line)
        records += built
    return records


def graphs_of(bundle: Bundle) -> list[Path]:
    """Paths of the graphs, in the order of the manifest."""
    return [bundle.onnx_path(graph.name) for graph in bundle.manifest.graphs]


def _refuse_failures(bundle: Bundle, built: Sequence[EngineRecord]) -> None:
    for record in built:
        if record.status != "built":
            stays = f"Nothing was changed: {bundle.path} has the engines for {record.target} that it had."
            raise UserError(in_lines([*record.failure_lines(), stays]))


def _check_target(bundle: Bundle, target: TargetSpec, requests: Sequence[EngineRequest], *, force: bool) -> None:
    target.check_precision(bundle.manifest.precision)
    if decoding := bundle.manifest.decoding:
        target.check_decoder_weights(decoding.weights)
    check_strangers(bundle.path, target.name, [graph.stem for graph in graphs_of(bundle)])
    # None where no GPU tells.
    wanted = [request.capability or gpu_capability() for request in requests]
    there = [] if force else engines_in_the_way(bundle.path, target.name, wanted)
    if there:
        raise UserError(
            f"{bundle.path} has engines for {target.name} ({', '.join(there)}) already; replace them with --force, or "
            f"remove {bundle.path / ENGINES / target.name}."
        )
    try:
        check_available(target)
    except UnavailableError as error:
        raise UserError(str(error).replace(KIT, str(bundle.path / "device" / "build.sh"))) from error
    _check_rules(bundle, target)


def _check_rules(bundle: Bundle, target: TargetSpec) -> None:
    from sttm_export.graphs.rules import check_rules
    from sttm_export.graphs.structure import external_files

    for graph in bundle.manifest.graphs:
        path = bundle.onnx_path(graph.name)
        for name in external_files(path):
            check_links(bundle.path, check_component(name, path.name), path.name)
        findings = check_rules(path, target, graph.row_counts)
        broken = [finding for finding in findings if finding.rule.severity == "error"]
        if broken:
            raise UserError(f"Target {target.name} cannot build {path.name}: {broken[0]} ({len(broken)} in all).")
