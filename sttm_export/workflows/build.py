"""Engines for a bundle that exists: checked first, built aside, moved in whole for each target or not at all."""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from sttm_export.bundle.kept import carry_over, check_strangers, engines_in_the_way
from sttm_export.bundle.opened import Bundle, bundle_around
from sttm_export.bundle.records import EngineRecord, Tool
from sttm_export.bundle.store import ENGINES, engines_staging, publish_engines
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.build import KIT, available_api, available_trtexec
from sttm_export.engines.faults import UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.engines.options import BuildOptions, check_options
from sttm_export.engines.targets import build_targets, capabilities_for, check_capabilities
from sttm_export.engines.timing_cache import CACHE_NAME, copy_cache, origin_path, pin_path, read_cache
from sttm_export.errors import UserError, in_lines
from sttm_export.files.names import check_component, check_links
from sttm_export.terminal import Advance, Steps

_RESERVE = 64 * 2**20


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        targets: what to build for.
        capabilities: compute capabilities asked for; empty for the defaults.
        options: timing cache None means the one that the bundle keeps, where the target has one.
        tool: `api` or `trtexec`.
        force: whether engines that are there for the same compute capabilities may be replaced; others stay.
    """

    targets: tuple[TargetSpec, ...]
    capabilities: tuple[str, ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)
    tool: Tool = "api"
    force: bool = False

    def options_for(self, target: TargetSpec, cache: Path) -> BuildOptions:
        """Return the options with the cache that a build of this target works on."""
        if target.builds_without_gpu:
            return self.options
        return dataclasses.replace(self.options, timing_cache=cache)


def check_request(bundle: Bundle, request: Request) -> None:
    """Refuse what cannot work before anything is built: options, machine, rules, engines in the way, disk.

    Who calls it, and then `build_bundle`, holds `only_builder` of the bundle.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    check_capabilities(request.targets, request.capabilities)
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
            cache = _stage_cache(bundle, request, target, partial, steps)
            built = _build_target(bundle, request, target, partial, cache, advance)
            kept = carry_over(bundle.path, target.name, partial, built)
            publish_engines(bundle.path, target.name, partial, [*built, *kept.records])
        for note in kept.notes:
            steps.say(note)
        _return_cache(bundle, request, target)
        records += built
    return records


def _build_target(
    bundle: Bundle, request: Request, target: TargetSpec, partial: Path, cache: Path, advance: Advance
) -> list[EngineRecord]:
    mine = [name for name in request.capabilities if name in target.compute_capabilities]
    options = request.options_for(target, cache)
    built = build_targets(
        graphs_of(bundle), [target], mine, partial.parent, advance, options=options, tool=request.tool
    )
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
    check_options(request.options_for(target, _given_cache(bundle, request, target)), target)
    check_strangers(bundle.path, target.name, [graph.stem for graph in graphs_of(bundle)])
    there = [] if request.force else engines_in_the_way(bundle.path, target.name, _capabilities(request, target))
    if there:
        raise UserError(
            f"{bundle.path} has engines for {target.name} ({', '.join(there)}) already; replace them with --force, or "
            f"remove {bundle.path / ENGINES / target.name}."
        )
    try:
        _version(request, target)
    except UnavailableError as error:
        raise UserError(str(error).replace(KIT, str(bundle.path / "device" / "build.sh"))) from error
    if request.options.timing_cache is not None or request.options.frozen_timing_cache:
        _check_place(bundle, request, target)
        _read_cache(bundle, request, target)
    _check_rules(bundle, target)


def _capabilities(request: Request, target: TargetSpec) -> list[str | None]:
    """What engines are built for; None where no GPU tells."""
    return [name or gpu_capability() for name in capabilities_for(target, request.capabilities)]


def _version(request: Request, target: TargetSpec) -> str:
    return available_trtexec(target)[1] if request.tool == "trtexec" else available_api(target).version


def _read_cache(bundle: Bundle, request: Request, target: TargetSpec) -> None:
    """Refuse a cache that does not fit; it is read for that alone."""
    cache, frozen = _given_cache(bundle, request, target), request.options.frozen_timing_cache
    read_cache(cache, _version(request, target), str(gpu_capability()), frozen=frozen)


def _check_place(bundle: Bundle, request: Request, target: TargetSpec) -> None:
    """Refuse a given cache that cannot be written back, or would be in a bundle or over files of something else."""
    given = request.options.timing_cache
    if given is None:
        return
    if given.is_dir() or not os.access(given.parent, os.W_OK):
        raise UserError(
            f"Cannot write the timing cache {given}; give a file in a directory that is there and writable."
        )
    around, kept = bundle_around(given), bundle.path / ENGINES / target.name / CACHE_NAME
    if around is not None and given.resolve() != kept.resolve():
        raise UserError(f"The timing cache {given} would lie in the bundle {around}, which keeps one of its own.")
    beside = [path for path in (pin_path(given), origin_path(given)) if path.exists()]
    if beside and not given.exists():
        raise UserError(f"The timing cache {given} would be written over {beside[0]}; give it another name.")


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
    """An engine is about as large as the weights of its graph, or small without them."""
    weights = sum(path.stat().st_size for graph in graphs_of(bundle) for path in bundle.path.glob(f"{graph.name}*"))
    copies = sum(len(capabilities_for(target, request.capabilities)) for target in request.targets)
    need = (0 if request.options.strip_weights else weights * copies) + _RESERVE
    free = shutil.disk_usage(bundle.path).free
    if free < need:
        raise UserError(
            f"The engines need about {need / 2**30:.1f} GiB and {bundle.path.resolve()} has {free / 2**30:.1f} GiB "
            "free; free some space, or build fewer --target or --compute-capability at once."
        )


def _stage_cache(bundle: Bundle, request: Request, target: TargetSpec, partial: Path, steps: Steps) -> Path:
    """Copy the cache that was given, or the one the bundle keeps, to where the build works on it.

    One that was given has been checked. One that the bundle keeps may be of the JetPack before an update: nobody asked
    for it, so it is left out, aloud.
    """
    given, work = _given_cache(bundle, request, target), partial / CACHE_NAME
    if target.builds_without_gpu or not given.is_file():
        return work
    try:
        _read_cache(bundle, request, target)
    except UserError as error:
        if request.options.timing_cache is not None or request.options.frozen_timing_cache:
            raise
        steps.say(f"the timing cache is made anew: {error}")
        return work
    copy_cache(given, work)
    return work


def _given_cache(bundle: Bundle, request: Request, target: TargetSpec) -> Path:
    return request.options.timing_cache or bundle.path / ENGINES / target.name / CACHE_NAME


def _return_cache(bundle: Bundle, request: Request, target: TargetSpec) -> None:
    """A cache that was given learns from the build, once its engines stand."""
    given, kept = request.options.timing_cache, bundle.path / ENGINES / target.name / CACHE_NAME
    if given is not None and not request.options.frozen_timing_cache and kept.is_file():
        copy_cache(kept, given)
