"""From a bundle to engines on the machine they run on: check, build, run, compare, and keep them only if all passes."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sttm_export import __version__
from sttm_export.bundle.kept import carry_over, carry_timings, check_strangers, engines_in_the_way, timings_notes
from sttm_export.bundle.manifest import MANIFEST
from sttm_export.bundle.opened import Bundle, bisect_command
from sttm_export.bundle.records import EngineRecord, sha256_of
from sttm_export.bundle.store import (
    ENGINES,
    clear_engines,
    engines_staging,
    only_builder,
    publish_engines,
    read_records,
)
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.api import BuildOptions, EngineError
from sttm_export.engines.build import build_engines, plan_engines
from sttm_export.engines.children import run_child
from sttm_export.engines.progress import OnProgress
from sttm_export.errors import UserError, ValidationMiss, in_lines
from sttm_export.kit.checks import (
    KIT,
    TARGETS,
    bundle_needs,
    check_bundle,
    graph_names,
    is_writable,
    pick_target,
    read_targets,
)
from sttm_export.kit.measure import MemoryWatch
from sttm_export.kit.report import READABLE, check_lines, latency_text, mark, write_reports
from sttm_export.machine.facts import MachineFacts, read_machine
from sttm_export.machine.jetson import PowerFacts
from sttm_export.machine.requirements import Check, check_machine, check_room, failed
from sttm_export.system import free_disk

REJECTED = "rejected"
# By its name, which is not imported: this process holds no NumPy while others build.
CHECK = "sttm_export.kit.check_job"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What was asked of the kit."""

    target: str | None = None  # None for the one that fits
    check_only: bool = False
    workspace_mib: int | None = None
    force: bool = False
    ignore_memory: bool = False  # try with less memory than the estimate
    runs: int = 20  # of each engine, for the latency


@dataclass
class _Work:
    """What is known so far, for the report."""

    bundle: Bundle
    target: TargetSpec
    facts: MachineFacts
    checks: list[Check]
    request: Request
    builds: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    latency: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Any] = field(default_factory=dict)


def run_kit(bundle: Bundle, request: Request, say: Say) -> Path | None:
    """Check the machine, build and compare every graph's engine, and put the engines into the bundle.

    Args:
        bundle: opened, not yet verified.
        request: what was asked.
        say: gets one line at a time.

    Returns:
        The directory of the engines; None where only the machine was to be checked.

    Raises:
        UserError: the machine, the bundle or an option is not as it must be; nothing was written.
        ValidationMiss: a build failed or an engine departs from the reference; the reports lie in `rejected/<target>`.
    """
    work = _look(bundle, request)
    say(f"{bundle.model.title} for {work.target.title}")
    faults = failed(work.checks)
    for line in check_lines(work.checks):
        say(line)
    if work.facts.power != PowerFacts():
        say(f"  Power mode: {work.facts.power.described}")
    if faults:
        names = ", ".join(fault.name for fault in faults)
        raise UserError(
            f"This machine and bundle will not do for {work.target.name}: {names} (what to do stands above, at →); "
            "nothing was written."
        )
    if request.check_only:
        return None
    with only_builder(bundle.path):
        for note in clear_engines(bundle.path, work.target.name):
            say(note)
        _refuse_existing(work)
        return _build_and_compare(work, say)


def _look(bundle: Bundle, request: Request) -> _Work:
    facts = read_machine()
    targets = read_targets(bundle.path / KIT / TARGETS)
    target = pick_target(facts, targets, request.target, bundle.manifest.targets)
    checks = [*check_bundle(bundle, target), *check_machine(facts, target)]
    checks += check_room(
        facts,
        bundle_needs(bundle, target),
        free_disk(bundle.path),
        is_writable(bundle.path),
        str(bundle.path),
        ignore_memory=request.ignore_memory,
    )
    return _Work(bundle, target, facts, checks, request)


def _has_engines(work: _Work) -> bool:
    try:
        return any(record.status == "built" for record in read_records(work.bundle.path, work.target.name))
    except UserError:
        # A damaged index, which --force replaces; whatever it was of is there still.
        return True


def _refuse_existing(work: _Work) -> None:
    name, gpu = work.target.name, work.facts.gpu
    check_strangers(work.bundle.path, name, graph_names(work.bundle))
    if work.request.force:
        return
    if engines_in_the_way(work.bundle.path, name, [gpu.compute_capability if gpu else None]):
        raise UserError(
            f"Engines for {name} are there already, in {work.bundle.path / ENGINES / name}; build again with --force."
        )


def _build_and_compare(work: _Work, say: Say) -> Path:
    name, home = work.target.name, work.bundle.path
    with engines_staging(home, name) as partial:
        try:
            _build(work, partial, say)
            _compare(work, partial, say)
            fault, cause = _first_miss(work)
        except EngineError as error:
            fault, cause = [str(error)], ""
        if fault:
            kept = "The engines that were there stay" if _has_engines(work) else "No engine was kept"
            rejected = _reject(work, partial, " ".join(fault))
            raise ValidationMiss(in_lines([*fault, f"{kept}; see {rejected / READABLE}{cause}."]))
        write_reports(partial, _report(work, ""))
        built = [EngineRecord(**build["record"]) for build in work.builds]
        others = carry_over(home, name, partial, built)
        folder = publish_engines(home, name, partial, [*built, *others.records])
    for note in others.notes:
        say(note)
    # What an earlier run left of engines that failed is no longer true.
    _clear_rejected(home / REJECTED / name)
    return folder


def _build(work: _Work, partial: Path, say: Say) -> None:
    carry_timings(work.bundle.path, work.target.name, partial)
    graphs = graph_names(work.bundle)
    files = [work.bundle.onnx_path(name) for name in graphs]
    options = BuildOptions(workspace_mib=work.request.workspace_mib)
    requests = plan_engines(files, [work.target], options=options, specs=work.bundle.manifest.graphs)
    for number, (name, request) in enumerate(zip(graphs, requests, strict=True), 1):
        say(f"[{number}/{2 * len(graphs)}] Build {name}")
        with MemoryWatch() as watch:
            (record,) = build_engines([request], partial.parent, _by_tenths(say))
        work.builds.append({"record": record.to_json(), "memory": watch.facts()})
        if record.status != "built":
            raise EngineError(f"Building {name} failed: {record.reason}")
    first = EngineRecord(**work.builds[0]["record"])
    for note in timings_notes(work.bundle.path, work.target.name, partial, first):
        say(f"      {note}")


def _by_tenths(say: Say) -> OnProgress:
    """Say every tenth of the way: enough to see life, readable in the log of a CI."""
    shown = -1

    def tell(what: str, fraction: float) -> None:
        nonlocal shown
        tenth = int(fraction * 10)
        if tenth > shown:
            shown = tenth
            say(f"      {fraction:4.0%}  {what}")

    return tell


def _compare(work: _Work, partial: Path, say: Say) -> None:
    graphs = graph_names(work.bundle)
    for number, name in enumerate(graphs, len(graphs) + 1):
        say(f"[{number}/{2 * len(graphs)}] Run {name} and compare")
        request = {
            "bundle": str(work.bundle.path.resolve()),
            "graph": name,
            "engine": str((partial / f"{name}.engine").resolve()),
            "runs": work.request.runs,
        }
        try:
            answer = run_child(CHECK, request)
        except (EngineError, UserError) as error:
            # The machine and the bundle were found good: what goes wrong now speaks against the engine, and is kept.
            raise EngineError(f"Running {name} failed: {error}") from error
        work.results += answer["validation"]["results"]
        work.findings += answer["validation"]["findings"]
        work.latency[name] = answer["latency"]
        for row in answer["validation"]["results"]:
            say(f"      {mark(row)}  {row['graph']}.{row['tensor']}: {row['reason']}")
        work.layers[name] = {"layers": answer["layers"], "reason": answer["layers_reason"]}
        say(f"      {latency_text(answer['latency'])}")


def _first_miss(work: _Work) -> tuple[list[str], str]:
    """Lines about the first miss, none where all passed; and how its cause is found."""
    # Imported here: the kit's own process holds no NumPy while others build.
    from sttm_export.validation.results import ValidationReport

    report = ValidationReport.from_json({"results": work.results, "findings": work.findings})
    lines, miss = report.miss_lines(), report.first_miss
    if miss is None:
        return lines, ""
    command = bisect_command(work.bundle.path, work.bundle.graph(miss.graph), engine=True)
    return lines, f"; to find the cause, with sttm-export installed: {command}"


def _reject(work: _Work, partial: Path, fault: str) -> Path:
    """Keep logs and reports where nobody takes them for engines, outside of what the bundle's sums cover."""
    folder = work.bundle.path / REJECTED / work.target.name
    _clear_rejected(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for log in sorted(partial.glob("*.log")):
        shutil.copyfile(log, folder / log.name)
    write_reports(folder, _report(work, fault))
    return folder


def _report(work: _Work, fault: str) -> dict[str, Any]:
    return {
        "program": f"sttm-export {__version__}",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": work.bundle.model.title,
        "bundle_sha256": sha256_of(work.bundle.path / MANIFEST),
        "target": work.target.to_json(),
        "passed": not fault,
        "reason": fault,
        "machine": work.facts.to_json(),
        "checks": [check.to_json() for check in work.checks],
        "builds": work.builds,
        "validation": {"results": work.results, "findings": work.findings},
        "latency": work.latency,
        "layers": work.layers,
        "attention_blocks": {
            row.name: row.attention_blocks for row in work.bundle.manifest.graphs if row.attention_blocks
        },
    }


def _clear_rejected(folder: Path) -> None:
    """Remove the reports and logs of an earlier run; what else lies there is somebody's, and stays."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.suffix in {".json", ".log", ".md"} and path.is_file():
            path.unlink()
    for place in (folder, folder.parent):
        if not any(place.iterdir()):
            place.rmdir()
