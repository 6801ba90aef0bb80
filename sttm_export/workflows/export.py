"""From a plan to a bundle: weights → graphs → rules → engines → evidence → manifest and report."""

from __future__ import annotations

import dataclasses
import datetime
import gc
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm_export import __version__
from sttm_export.bundle.manifest import FORMAT
from sttm_export.bundle.opened import (
    CLIP,
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
from sttm_export.contracts.target import targets
from sttm_export.errors import UserError, ValidationMiss, in_lines
from sttm_export.kit.pack import pack_kit
from sttm_export.terminal import Advance, Steps
from sttm_export.validation.results import ValidationReport
from sttm_export.workflows.output import keep_rejected, publish, staging
from sttm_export.workflows.plan import ExportPlan

if TYPE_CHECKING:
    from torch import Tensor

    from sttm_export.contracts.weights import WeightSource

PICTURE = "tokens.png"
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
        with steps.step("Read the weights"):
            state, source = _weights(plan)
        steps.say(source.describe())
        graphs = _export_graphs(plan, state, partial, steps)
        with steps.step("Check the targets' rules"):
            findings = check_targets(graphs, plan)
        engines = _build_engines(plan, graphs, partial, steps)
        evidence = _examine(plan, state, partial, steps)
        del state
        with steps.step("Write manifest and report"):
            pack_kit(partial, plan.model.title, graphs, list(targets().values()))
            created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            write_times(partial, created, steps.seconds)
            _write(partial, _manifest(plan, source, findings, evidence), engines, created)
        return _deliver(plan, partial, engines, evidence.get("validation"))


def check_targets(graphs: Sequence[Path], plan: ExportPlan) -> dict[str, list[dict[str, str]]]:
    """Findings of the rules for every target there is: the device kit in a bundle may be run for any of them.

    Raises:
        UserError: a rule of severity error is broken for a target that was asked for.
    """
    from sttm_export.contracts.target import targets
    from sttm_export.graphs.rules import check_structure
    from sttm_export.graphs.structure import load_structure

    structures = {graph.name: load_structure(graph) for graph in graphs}
    findings: dict[str, list[dict[str, str]]] = {}
    for target in targets().values():
        findings[target.name] = [
            {"graph": name, "severity": row.rule.severity, "finding": str(row)}
            for name, graph in structures.items()
            for row in check_structure(graph, target)
        ]
        broken = [row for row in findings[target.name] if row["severity"] == "error"]
        if broken and target in plan.targets:
            first = f"{broken[0]['graph']}: {broken[0]['finding']}"
            raise UserError(f"Target {target.name} cannot build these graphs: {first} ({len(broken)} in all).")
    return findings


def _weights(plan: ExportPlan) -> tuple[dict[str, Tensor], WeightSource]:
    from sttm_export.weights.loading import load_vision_encoder

    return load_vision_encoder(plan.model, plan.weights, plan.random_seed, plan.tower_weights)


def _export_graphs(plan: ExportPlan, state: Mapping[str, Tensor], partial: Path, steps: Steps) -> list[Path]:
    from sttm_export.families.llava.vision_encoder import build_encoder
    from sttm_export.graphs.export import export_graph
    from sttm_export.merging.static import TokenMerger

    # The merger is traced first: a grid or level that cannot be merged shows before the long export.
    merger = TokenMerger(plan.merge)
    with steps.step("Export the vision encoder") as advance:
        advance("building the module", None)
        module, told = build_encoder(plan.model, state, plan.precision), _steps_of(advance)
        encoder = export_graph(module, plan.encoder_graph, partial, accumulate=plan.accumulate, on_step=told)
        del module
        gc.collect()
    with steps.step("Export the token merger") as advance:
        told = _steps_of(advance)
        return [
            encoder,
            export_graph(merger, plan.merger_graph, partial, accumulate=plan.accumulate, on_step=told),
        ]


def _steps_of(advance: Advance) -> Callable[[str], None]:
    """What an export does one after the other, each of unknown length."""
    return lambda what: advance(what, None)


def _build_engines(plan: ExportPlan, graphs: Sequence[Path], partial: Path, steps: Steps) -> list[EngineRecord]:
    from sttm_export.engines.progress import part_of
    from sttm_export.engines.targets import build_targets

    if not plan.engines:
        return []
    records: list[EngineRecord] = []
    with steps.step("Build engines") as advance:
        for place, target in enumerate(plan.targets):
            mine = [name for name in plan.capabilities if name in target.compute_capabilities]
            told = part_of(advance, place, len(plan.targets))
            records += build_targets(graphs, [target], mine, partial / ENGINES, told)
    for target in plan.targets:
        seal_target(partial / ENGINES / target.name, [record for record in records if record.target == target.name])
    for reason in dict.fromkeys(f"{r.target}: {r.status}: {r.reason}" for r in records if r.status != "built"):
        steps.say(reason)
    return records


def _examine(plan: ExportPlan, state: Mapping[str, Tensor], partial: Path, steps: Steps) -> dict[str, Any]:
    """Validation report, fixtures and picture; empty where validation was not wanted."""
    if not plan.validation_frames:
        return {}
    from sttm_export.graphs.fixtures import write_fixture
    from sttm_export.workflows.evidence import draw_example, examine_encoder, examine_merger, example_json
    from sttm_export.workflows.scene import take_scene

    thresholds = (plan.thresholds.spatial, plan.thresholds.temporal)
    with steps.step("Validate every stage") as advance:
        scene = take_scene(plan.clip, plan.validation_frames)
        encoder, merger = plan.encoder_graph, plan.merger_graph
        path = partial / encoder.onnx_file
        first = examine_encoder(plan.model, plan.precision, plan.accumulate, state, encoder, path, scene, advance)
        path = partial / merger.onnx_file
        second = examine_merger(plan.merge, merger, path, first.features, thresholds, advance, scene.name)
        for graph, fixtures in ((encoder, first.fixtures), (merger, second.fixtures)):
            for case, fixture in fixtures.items():
                name = graph.name if case == CLIP else f"{graph.name}.{case}"
                write_fixture(partial / "fixtures" / f"{name}.npz", graph, *fixture, packed=case != CLIP)
        draw_example(partial / PICTURE, scene, second.merged, plan.model)
    if scene.note:
        steps.say(scene.note)
    return {"validation": first.report + second.report, "example": example_json(scene, second.merged)}


def _manifest(
    plan: ExportPlan,
    source: WeightSource,
    findings: Mapping[str, list[dict[str, str]]],
    evidence: Mapping[str, Any],
) -> dict[str, Any]:
    """What was exported, of what, and how it was checked; nothing in it hangs on the clock or on an engine."""
    report: ValidationReport | None = evidence.get("validation")
    return {
        "format": FORMAT,
        "program": f"sttm-export {__version__}",
        "model": dataclasses.asdict(plan.model),
        "precision": plan.precision,
        "accumulate": plan.accumulate,
        "merge": dataclasses.asdict(plan.merge) | {"max_tokens": plan.merge.max_tokens},
        "merged_at": "projected tokens, before decoder layer 0 (docs/semantics.md, section 10)",
        "thresholds": dataclasses.asdict(plan.thresholds),
        "weights": dataclasses.asdict(source),
        "graphs": [dataclasses.asdict(plan.encoder_graph), dataclasses.asdict(plan.merger_graph)],
        "targets": [target.name for target in plan.targets],
        "rule_findings": dict(findings),
        "validation": report.to_json() if report else None,
        "example": evidence.get("example"),
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


def _write(partial: Path, manifest: dict[str, Any], engines: Sequence[EngineRecord], created: str) -> None:
    """Report and manifest; the report also shows what the manifest keeps clear of, engines and the time."""
    from sttm_export.validation.report import write_report

    manifest["files"] = list_files(partial)
    picture = partial / PICTURE
    shown = manifest | {"engines": [record.to_json() for record in engines], "created": created}
    write_report(partial / REPORT, shown, picture if picture.is_file() else None)
    write_manifest(partial, manifest)


def _deliver(
    plan: ExportPlan, partial: Path, engines: Sequence[EngineRecord], report: ValidationReport | None
) -> Bundle:
    """Give a good bundle its name; keep a bad one, under a name that nobody takes for a bundle."""
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
    cause = bisect_command(rejected, report.first_miss.graph, weights=plan.weights, tower_weights=plan.tower_weights)
    report.raise_on_miss(f"{evidence}; to find the cause: {cause}")
    raise AssertionError("a miss was raised")
