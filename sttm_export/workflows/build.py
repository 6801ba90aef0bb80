"""Engines for a bundle that exists: checked first, built aside, moved in whole for each target or not at all."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sttm_export.bundle.kept import carry_over, carry_timings, check_strangers, engines_in_the_way, timings_notes
from sttm_export.bundle.opened import Bundle
from sttm_export.bundle.records import EngineRecord
from sttm_export.bundle.store import ENGINES, engines_staging, publish_engines
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.build import KIT, available_api
from sttm_export.engines.faults import UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.engines.options import BuildOptions, check_options
from sttm_export.engines.targets import build_targets, capabilities_for, check_capabilities
from sttm_export.errors import UserError, in_lines
from sttm_export.files.names import check_component, check_links
from sttm_export.terminal import Advance, Steps

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


def check_request(bundle: Bundle, request: Request) -> None:
    """Refuse what cannot work before anything is built: options, machine, rules, engines in the way, disk.

    Who calls it, and then `build_bundle`, holds `only_builder` of the bundle.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    check_capabilities(request.targets, request.capabilities)
    check_options(request.options)
    for target in request.targets:
        _check_target(bundle, request, target)
    _check_disk(bundle, request)


def build_bundle(bundle: Bundle, request: Request, steps: Steps) -> list[EngineRecord]:
    """Build the engines of every target, one target after the other.

    Returns:
        A record for every engine.

    Raises:
        UserError: an engine could not be built; its target stays as it was, those before it are there.
    """
    records = []
    for target in request.targets:
        title = f"Build engines for {target.name}"
        with steps.step(title) as advance, engines_staging(bundle.path, target.name) as partial:
            carry_timings(bundle.path, target.name, partial)
            built = _build_target(bundle, request, target, partial, advance)
            notes = timings_notes(bundle.path, target.name, partial, built[0])
            kept = carry_over(bundle.path, target.name, partial, built)
            publish_engines(bundle.path, target.name, partial, [*built, *kept.records])
        for line in [*notes, *kept.notes]:
            steps.say(line)
        records += built
    return records


def _build_target(
    bundle: Bundle, request: Request, target: TargetSpec, partial: Path, advance: Advance
) -> list[EngineRecord]:
    mine = [name for name in request.capabilities if name in target.compute_capabilities]
    built = build_targets(graphs_of(bundle), [target], mine, partial.parent, advance, options=request.options)
    for record in built:
        if record.status != "built":
            stays = f"Nothing was changed: {bundle.path} has the engines for {target.name} that it had."
            raise UserError(in_lines([*record.failure_lines(), stays]))
    return built


def graphs_of(bundle: Bundle) -> list[Path]:
    """Paths of the graphs, in the order of the manifest."""
    return [bundle.onnx_path(graph.name) for graph in bundle.manifest.graphs]


def _check_target(bundle: Bundle, request: Request, target: TargetSpec) -> None:
    target.check_precision(bundle.manifest.precision)
    check_strangers(bundle.path, target.name, [graph.stem for graph in graphs_of(bundle)])
    there = [] if request.force else engines_in_the_way(bundle.path, target.name, _capabilities(request, target))
    if there:
        raise UserError(
            f"{bundle.path} has engines for {target.name} ({', '.join(there)}) already; replace them with --force, or "
            f"remove {bundle.path / ENGINES / target.name}."
        )
    try:
        available_api(target)
    except UnavailableError as error:
        raise UserError(str(error).replace(KIT, str(bundle.path / "device" / "build.sh"))) from error
    _check_rules(bundle, target)


def _capabilities(request: Request, target: TargetSpec) -> list[str | None]:
    """What engines are built for; None where no GPU tells."""
    return [name or gpu_capability() for name in capabilities_for(target, request.capabilities)]


def _check_rules(bundle: Bundle, target: TargetSpec) -> None:
    from sttm_export.graphs.rules import check_rules
    from sttm_export.graphs.structure import external_files

    for graph in graphs_of(bundle):
        for name in external_files(graph):
            check_links(bundle.path, check_component(name, graph.name), graph.name)
        broken = [finding for finding in check_rules(graph, target) if finding.rule.severity == "error"]
        if broken:
            raise UserError(f"Target {target.name} cannot build {graph.name}: {broken[0]} ({len(broken)} in all).")


def _check_disk(bundle: Bundle, request: Request) -> None:
    """An engine is about as large as the weights of its graph."""
    weights = sum(path.stat().st_size for graph in graphs_of(bundle) for path in bundle.path.glob(f"{graph.name}*"))
    copies = sum(len(capabilities_for(target, request.capabilities)) for target in request.targets)
    need = weights * copies + _RESERVE
    free = shutil.disk_usage(bundle.path).free
    if free < need:
        raise UserError(
            f"The engines need about {need / 2**30:.1f} GiB and {bundle.path.resolve()} has {free / 2**30:.1f} GiB "
            "free; free some space, or build fewer --target or --compute-capability at once."
        )
