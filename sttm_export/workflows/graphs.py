"""The graphs of a bundle, part by part: weights → ONNX → rules of targets → evidence."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.calibration import CALIBRATION
from sttm_export.contracts.graph import CLIP, INT8, GraphSpec, JudgedGraph
from sttm_export.contracts.losses import Losses
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.quantization import Quantization
from sttm_export.contracts.target import targets
from sttm_export.contracts.weights import WeightSource, combined
from sttm_export.errors import UserError
from sttm_export.language.before import rows_before
from sttm_export.runtime.draw import draw_tokens
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.terminal import Advance, Steps
from sttm_export.validation.player import ShownClip
from sttm_export.validation.results import ValidationReport
from sttm_export.validation.stages import EAGER, REFERENCE
from sttm_export.workflows.example import example_json, shown_clip
from sttm_export.workflows.language_files import write_language_files
from sttm_export.workflows.plan import ExportPlan
from sttm_export.workflows.scene import Scene, take_scene

if TYPE_CHECKING:
    from sttm_export.families.part import Arrays, Case, Part, State
    from sttm_export.families.weights import Weights
    from sttm_export.workflows.evidence import PackFixture

PICTURE = "tokens.png"


@dataclass
class Made:
    """What an export has made so far, beside files."""

    source: WeightSource
    graphs: list[JudgedGraph] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)  # of all weights, in the order in which they were read
    findings: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    quantization: Quantization | None = None
    losses: Losses | None = None  # of weights of four bits
    report: ValidationReport | None = None
    example: dict[str, Any] | None = None
    clip: ShownClip | None = None


@dataclass
class _Exported:
    """A part whose graph is written."""

    part: Part
    path: Path
    graph: JudgedGraph
    state: dict[str, Any]  # its weights as the graph has them
    original: dict[str, Any]  # as they were read


def make_graphs(plan: ExportPlan, partial: Path, steps: Steps) -> Made:
    """Part by part: read its weights, export, check, examine, and let go of them before the next.

    Raises:
        UserError: weights, calibration, graph rules or clip are not as they must be.
    """
    from sttm_export.families.weights import open_weights

    with steps.step("Open the weights"):
        weights = open_weights(plan.model, plan.shapes, plan.weights, plan.random_seed, plan.tower_weights)
        scene, clip = _take_clip(plan)
    made = Made(weights.source)
    steps.say(made.source.describe())
    if scene and scene.note:
        steps.say(scene.note)
    if plan.recipe.decoding:
        with steps.step("Write tokenizer and embeddings"):
            made.digests.append(write_language_files(partial, plan.recipe, weights))
            clip |= {"system": rows_before(partial, plan.recipe)} if scene else {}
    if plan.calibration:
        (partial / CALIBRATION).write_bytes(plan.calibration.content)
    parts, float_features = _quantized(plan, weights, clip, made, steps)
    for part in parts:
        with steps.step(f"Export the {_title(part)}") as advance:
            exported = _export_part(part, weights, plan, partial, made, advance)
        if scene is not None:
            with steps.step(f"Validate the {_title(part)}", steady=True) as advance:
                clip |= _examine_part(exported, plan, partial, scene, clip, made, advance)
        del exported
        gc.collect()
        if part.points and float_features is not None:
            _compare_decisions(plan, float_features, clip, made, steps)
    made.source = replace(made.source, sha256=combined(made.digests))
    if scene is not None:
        _show_clip(plan, scene, clip, partial, made)
    return made


def _title(part: Part) -> str:
    return part.name.replace("_", " ")


def _export_part(
    part: Part, weights: Weights, plan: ExportPlan, partial: Path, made: Made, advance: Advance
) -> _Exported:
    from sttm_export.weights.checkpoint import digest
    from sttm_export.workflows.quantize import check_weights

    advance("reading its weights", None)
    original = weights.read(part.shapes)
    graph = replace(part.graph, weights_sha256=digest(original) if original else "")
    made.digests += [graph.weights_sha256] if original else []
    if plan.calibration and part.points:
        check_weights(plan.calibration, graph.weights_sha256)
    state = _quantize(part, original, made, advance)
    path = _export_graph(part, state, plan, partial, advance)
    made.graphs.append(graph)
    for target, rows in _check_targets(path, graph, plan).items():
        made.findings.setdefault(target, []).extend(rows)
    return _Exported(part, path, graph, state, original)


def _examine_part(
    exported: _Exported,
    plan: ExportPlan,
    partial: Path,
    scene: Scene,
    clip: dict[str, Any],
    made: Made,
    advance: Advance,
) -> dict[str, Any]:
    """Run every stage; return what the clip becomes by this part."""
    from sttm_export.workflows.evidence import examine

    part, path, graph = exported.part, exported.path, exported.graph
    losses, carried = _measure_losses(exported, clip, advance)
    # Let go of, as `examine` does of the state: a large part is in memory once only.
    exported.original = {}
    session = functools.partial(OrtSession, path, graph, low_memory=bool(part.shapes))
    rules, pack = plan.recipe.rules(graph), _partial_writer(partial, graph)
    found, outputs = examine(part, exported.state, session, rules, clip | carried, advance, name=scene.name, pack=pack)
    made.report = (made.report or ValidationReport()) + found
    if losses:
        made.losses = (made.losses or Losses()) + losses.beside(_rounding(found, graph))
    return {**carried, **outputs}


def _show_clip(plan: ExportPlan, scene: Scene, clip: Arrays, partial: Path, made: Made) -> None:
    """What became of the validation clip, in figures and pictures."""
    from sttm_export.workflows.evidence import merged_of, one_frame_note

    assert made.report is not None, "every part was examined"
    merged = merged_of(clip, plan.merge)
    made.report += ValidationReport([], [*_heavy_weights(made), *one_frame_note(clip, plan.model.step)])
    features = cast("NDArray[np.floating]", clip["features"])
    made.example = example_json(scene, merged, features, plan.merge, plan.model.frames_per_step)
    made.clip = shown_clip(scene, merged, plan.model)
    _draw(partial / PICTURE, scene, merged, plan.model)


def _quantized(
    plan: ExportPlan, weights: Weights, clip: Arrays, made: Made, steps: Steps
) -> tuple[tuple[Part, ...], NDArray[np.floating] | None]:
    """The parts, of precision int8 with int8 layers in the encoder; then also the float encoder's features of the clip.

    Layers are chosen on the frames of the validation; on a synthetic scene where nothing is validated.
    """
    if plan.recipe.precision != INT8:
        return plan.parts, None
    from sttm_export.weights.checkpoint import digest
    from sttm_export.workflows.quantize import check_weights, quantize_encoder, summary

    assert plan.calibration is not None, "the plan has been checked for a calibration"
    encoder, *others = plan.parts
    with steps.step("Quantize the vision encoder") as advance:
        advance("reading its weights", None)
        state = weights.read(encoder.shapes)
        check_weights(plan.calibration, digest(state))
        frames = clip or {"pixel_values": _pixels(plan, take_scene(plan.clip, plan.recipe.batch))}
        chosen = quantize_encoder(plan.recipe, plan.calibration, plan.int8_layers, state, frames, advance)
    made.quantization = chosen.record
    steps.say(summary(chosen.record))
    return (chosen.part, *others), chosen.features if clip else None


def _compare_decisions(
    plan: ExportPlan, float_features: NDArray[np.floating], clip: Arrays, made: Made, steps: Steps
) -> None:
    from sttm_export.workflows.decision_change import change_in_words, decision_change

    assert made.quantization is not None, "only an int8 encoder has float features beside its own"
    with steps.step("Compare the decisions on int8 features"):
        change = decision_change(plan.recipe, float_features, cast("NDArray[np.floating]", clip["features"]))
    made.quantization = replace(made.quantization, decisions=change)
    steps.say(change_in_words(change))


def _take_clip(plan: ExportPlan) -> tuple[Scene | None, dict[str, Any]]:
    """Frames to validate on, and their pixel values."""
    if not plan.validation_frames:
        return None, {}
    scene = take_scene(plan.clip, plan.validation_frames)
    return scene, {"pixel_values": _pixels(plan, scene)}


def _pixels(plan: ExportPlan, scene: Scene) -> NDArray[np.floating]:
    return pixel_values(scene.frames, plan.model.pixels, plan.model.frames_per_step)


def _quantize(part: Part, state: dict[str, Any], made: Made, advance: Advance) -> dict[str, Any]:
    """Quantize the weights of a part, where they are to be, and note what that loses."""
    if part.quantizing is None:
        return state
    told: Callable[[int, int], None] = lambda done, count: advance("quantizing its weights", done / count)  # noqa: E731
    quantized, losses = part.quantizing.apply(state, told)
    made.losses = (made.losses or Losses()) + losses
    return dict(quantized)


def _measure_losses(exported: _Exported, clip: Arrays, advance: Advance) -> tuple[Losses | None, dict[str, Any]]:
    """What the outputs of a part lose by its quantized weights, and what the next part needs to measure its own."""
    quantizing = exported.part.quantizing
    if quantizing is None:
        return None, {}
    told: Callable[[int, int], None] = lambda _done, _count: advance("what four bits a weight lose", None)  # noqa: E731
    told(0, 1)
    losses, carried = quantizing.measure(exported.original, exported.state, clip, told)
    return losses, dict(carried)


def _rounding(found: ValidationReport, graph: GraphSpec) -> float:
    """Relative error of a graph's first output on the clip, against its reference; 0 where it was not compared."""
    name = graph.outputs[0].name
    rows = [row for row in found if row.tensor == name and row.stage not in (EAGER, REFERENCE) and row.comparison]
    return float(f"{rows[0].comparison.relative_frobenius:.4g}") if rows and rows[0].comparison else 0.0


def _heavy_weights(made: Made) -> list[str]:
    """Weights that four bits suit badly; without a validation they stand in the manifest alone."""
    from sttm_export.families.int4_parts import heavy_weights

    return heavy_weights(made.losses) if made.losses else []


def _export_graph(part: Part, state: State, plan: ExportPlan, partial: Path, advance: Advance) -> Path:
    from sttm_export.graphs.export import export_graph

    advance("building the module", None)
    module = part.module(state)
    # Each of the steps is of unknown length.
    told: Callable[[str], None] = lambda what: advance(what, None)  # noqa: E731
    path = export_graph(module, part.graph, partial, accumulate=plan.recipe.accumulate, on_step=told)
    # What the exporter leaves holds itself and, with it, all weights once more.
    del module
    gc.collect()
    return path


def _partial_writer(partial: Path, graph: JudgedGraph) -> PackFixture:
    """Write fixtures into a bundle that is being made."""
    from sttm_export.graphs.fixtures import write_fixture

    def write(case: Case, outputs: Arrays) -> None:
        path = partial / graph.fixture_file(case.key)
        with np.errstate(over="ignore"):
            # What float16 cannot hold becomes an infinity, which is found when the fixture is used.
            stored = {row.name: outputs[row.name].astype(row.dtype) for row in graph.outputs}
        write_fixture(path, graph, case.inputs, stored, packed=case.key != CLIP or bool(graph.state))

    return write


def _draw(path: Path, scene: Scene, merged: MergedTokens, model: ModelSpec) -> None:
    """Draw the merged tokens over the frames, the first of each step."""
    step, title = model.frames_per_step, f"{model.title}, {scene.name}"
    draw_tokens(scene.frames[::step], merged, model.grid, path, timestamps=scene.timestamps[::step], title=title)


def _check_targets(path: Path, graph: GraphSpec, plan: ExportPlan) -> dict[str, list[dict[str, str]]]:
    """Findings of the rules for every target there is: the device kit in a bundle may be run for any of them.

    Raises:
        UserError: a rule of severity error is broken for a target that was asked for.
    """
    from sttm_export.graphs.rules import check_structures, structures_of

    structures = structures_of(path, graph.row_counts)
    findings: dict[str, list[dict[str, str]]] = {}
    for target in targets().values():
        findings[target.name] = [
            {"graph": path.name, "severity": row.rule.severity, "finding": str(row)}
            for row in check_structures(structures, target)
        ]
        broken = [row for row in findings[target.name] if row["severity"] == "error"]
        if broken and target in plan.targets:
            first = f"{path.name}: {broken[0]['finding']}"
            raise UserError(f"Target {target.name} cannot build these graphs: {first} ({len(broken)} in all).")
    return findings
