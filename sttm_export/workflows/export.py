"""From a plan to a bundle: weights → graphs → rules → evidence → engines → manifest and report."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from sttm_export import __version__
from sttm_export.bundle.manifest import FORMAT
from sttm_export.bundle.opened import (
    REPORT,
    Bundle,
    bisect_command,
    list_files,
    open_bundle,
    write_manifest,
    write_times,
)
from sttm_export.bundle.records import EngineRecord
from sttm_export.bundle.store import ENGINES, seal_target
from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.target import targets
from sttm_export.errors import ValidationMiss, in_lines
from sttm_export.kit.pack import pack_kit
from sttm_export.terminal import Steps
from sttm_export.validation.player import ShownClip
from sttm_export.workflows.graphs import PICTURE, Made, make_graphs
from sttm_export.workflows.output import keep_rejected, publish, staging
from sttm_export.workflows.plan import ExportPlan

_VERSIONS = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "tensorrt-rtx-cu13-libs",
    "tensorrt",
)


def run_export(plan: ExportPlan, steps: Steps) -> Bundle:
    """Make the bundle of a plan that `check_plan` has accepted.

    Raises:
        UserError: weights, graph rules or clip are not as they must be; nothing is left behind.
        ValidationMiss: a stage or an engine failed; the evidence is kept as `keep_rejected` says, not as the bundle.
    """
    with staging(plan.output, plan.force, steps.say) as partial:
        made = make_graphs(plan, partial, steps)
        files = [partial / row.onnx_file for row in made.graphs]
        engines = _build_engines(plan, files, made.graphs, partial, steps)
        with steps.step("Write manifest and report"):
            pack_kit(partial, plan.model.title, files, list(targets().values()))
            created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            write_times(partial, created, steps.seconds)
            _write(partial, _manifest(plan, made), engines, created, made.clip)
        return _deliver(plan, partial, engines, made)


def _build_engines(
    plan: ExportPlan, files: Sequence[Path], specs: Sequence[GraphSpec], partial: Path, steps: Steps
) -> list[EngineRecord]:
    from sttm_export.engines.build import build_engines, plan_engines

    if not plan.engines:
        return []
    with steps.step("Build engines") as advance:
        requests = plan_engines(files, plan.targets, plan.capabilities, specs=specs)
        records = build_engines(requests, partial / ENGINES, advance)
    for target in plan.targets:
        seal_target(partial / ENGINES / target.name, [record for record in records if record.target == target.name])
    for reason in dict.fromkeys(f"{r.target}: {r.status}: {r.reason}" for r in records if r.status != "built"):
        steps.say(reason)
    return records


def _manifest(plan: ExportPlan, made: Made) -> dict[str, Any]:
    """What was exported, of what, and how it was checked; nothing in it depends on the clock or on an engine."""
    recipe = plan.recipe
    return {
        "format": FORMAT,
        "program": f"sttm-export {__version__}",
        "model": dataclasses.asdict(recipe.model),
        "precision": recipe.precision,
        "accumulate": recipe.accumulate,
        "batch": recipe.batch,
        "merge": dataclasses.asdict(recipe.merge) | {"max_tokens": recipe.merge.max_tokens},
        "merged_at": f"the input of decoder layer {recipe.merge_layer} (docs/semantics.md, section 10)",
        "thresholds": dataclasses.asdict(recipe.thresholds),
        "decoding": dataclasses.asdict(recipe.decoding) if recipe.decoding else None,
        "calibration": dataclasses.asdict(plan.calibration.file) if plan.calibration else None,
        "quantization": dataclasses.asdict(made.quantization) if made.quantization else None,
        "weights": dataclasses.asdict(made.source),
        "graphs": [dataclasses.asdict(graph) for graph in made.graphs],
        "targets": [target.name for target in plan.targets],
        "rule_findings": made.findings,
        "int4_losses": dataclasses.asdict(made.losses) if made.losses else None,
        "validation": made.report.to_json() if made.report else None,
        "example": made.example,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sttm-export": __version__}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _write(
    partial: Path, manifest: dict[str, Any], engines: Sequence[EngineRecord], created: str, clip: ShownClip | None
) -> None:
    """Report and manifest; the report also shows what the manifest keeps clear of, engines and the time."""
    from sttm_export.validation.report import write_report

    manifest["files"] = list_files(partial)
    picture = partial / PICTURE
    shown = manifest | {"engines": [record.to_json() for record in engines], "created": created}
    write_report(partial / REPORT, shown, picture if picture.is_file() else None, clip)
    write_manifest(partial, manifest)


def _deliver(plan: ExportPlan, partial: Path, engines: Sequence[EngineRecord], made: Made) -> Bundle:
    """Give a good bundle its name; keep a bad one, under a name that nobody takes for a bundle."""
    report = made.report
    failed = [record for record in engines if record.status == "failed"]
    if (report is None or report.passed) and not failed:
        publish(partial, plan.output, plan.force)
        return open_bundle(plan.output, verify=False)
    rejected = keep_rejected(partial, plan.output, plan.force)
    evidence = f"No bundle was written; the evidence is in {rejected / REPORT}"
    if failed:
        first = failed[0]
        log = f", TensorRT's log in {rejected / ENGINES / first.log}" if first.log else ""
        raise ValidationMiss(in_lines([*first.failure_lines(), f"{evidence}{log}."]))
    assert report is not None and report.first_miss is not None, "a report that did not pass has a miss"
    graph = next(row for row in made.graphs if row.name == report.first_miss.graph)
    cause = bisect_command(rejected, graph, weights=plan.weights, tower_weights=plan.tower_weights)
    report.raise_on_miss(f"{evidence}; to find the cause: {cause}")
    raise AssertionError("a miss was raised")
