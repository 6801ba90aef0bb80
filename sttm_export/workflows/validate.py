"""Checking a bundle that exists: on its fixtures, which needs no weights, or on a fresh clip, which does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import CLIP
from sttm_export.engines.compatibility import Selection
from sttm_export.errors import UserError
from sttm_export.families.registry import parts_of
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.kit.check_job import check_fixtures
from sttm_export.language.before import rows_before
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.terminal import Advance, Steps
from sttm_export.validation.fixture_check import check_finite
from sttm_export.validation.results import ValidationReport, skipped
from sttm_export.workflows.bundle_weights import bundle_weights
from sttm_export.workflows.evidence import examine, one_frame_note
from sttm_export.workflows.scene import take_scene

if TYPE_CHECKING:
    from sttm_export.families.part import Part

_FIXTURES = "the fixtures"
_MOST_FRAMES = 32


def validate_on_fixtures(bundle: Bundle, steps: Steps) -> ValidationReport:
    """Run every graph on its packed inputs; where a reference needs weights it is packed too, others run anew.

    Raises:
        UserError: the bundle was exported without validation and has no fixtures.
    """
    parts, report = parts_of(bundle.recipe), ValidationReport()
    if not bundle.fixture_path(parts[0].name).is_file():
        raise UserError(
            f"{bundle.path} was exported with --no-validation and has no fixtures; validate it with --clip FILE, or "
            "export it with validation."
        )
    with steps.step("Validate on the fixtures") as advance:
        for place, part in enumerate(parts):
            advance(part.name, place / len(parts))
            report += _check(part, bundle, advance)
    return report


def _check(part: Part, bundle: Bundle, advance: Advance) -> ValidationReport:
    """One part; an export whose features were not finite has packed no fixture of what comes behind them."""
    graph, path = bundle.graph(part.name), bundle.fixture_path(part.name)
    if not path.is_file() and bundle.manifest.missed:
        why = "the bundle has no fixture of it, because the features it would be judged on were not finite"
        output = graph.outputs[0].name
        return ValidationReport([skipped("every stage", "", graph.name, output, why)]).on(_FIXTURES)
    session = partial(OrtSession, bundle.onnx_path(part.name), graph, low_memory=bool(part.shapes))
    if part.clip_of is None:
        return check_fixtures(session(), bundle).on(_FIXTURES)
    for case, file in bundle.fixture_paths(part.name).items():
        if damaged := check_finite(graph, read_fixture(file, graph), "every stage"):
            return ValidationReport(damaged).on("the clip" if case == CLIP else f"the case {case}").on(_FIXTURES)
    clip = part.clip_of(read_fixture(path, graph)[0])
    return examine(part, {}, session, bundle.rules(part.name), clip, advance, name=_FIXTURES)[0]


def validate_engines(bundle: Bundle, selection: Selection, steps: Steps) -> ValidationReport:
    """Run the bundle's engines on the packed inputs and hold them against the packed outputs of the reference.

    Args:
        bundle: with engines and fixtures.
        selection: those of its engines that run here.
        steps: told of the progress.

    Raises:
        UserError: an engine does not load, or failed.
    """
    report, graphs = ValidationReport(), bundle.manifest.graphs
    with steps.step(f"Validate the engines of {selection.target}") as advance:
        for place, graph in enumerate(graphs):
            advance(graph.name, place / len(graphs))
            with TrtSession(selection.engines[graph.name], graph) as session:
                report += check_fixtures(session, bundle)
    return report.on(_FIXTURES)


def validate_on_clip(
    bundle: Bundle, clip: Path, weights: str | None, tower_weights: str | None, steps: Steps
) -> ValidationReport:
    """Run every stage on a fresh clip, the reference from the weights the bundle was made of.

    Raises:
        UserError: weights are missing or others than the bundle's, or the clip cannot be read.
    """
    model, parts = bundle.model, parts_of(bundle.recipe)
    scene = take_scene(clip, min(bundle.merge.frames * model.frames_per_step, _MOST_FRAMES))
    with steps.step("Read the weights"):
        otherwise = "leave --clip out to validate on the fixtures"
        read = bundle_weights(bundle, parts, weights, tower_weights, otherwise)
        first = read(parts[0])
    with steps.step("Validate on the clip", steady=True) as advance:
        report = ValidationReport()
        made: dict[str, Any] = {"pixel_values": pixel_values(scene.frames, model.pixels, model.frames_per_step)}
        if bundle.manifest.decoding:
            made["system"] = rows_before(bundle.path, bundle.manifest.recipe)
        for place, part in enumerate(parts):
            state = first if place == 0 else read(part)
            session = partial(OrtSession, bundle.onnx_path(part.name), bundle.graph(part.name), low_memory=bool(state))
            found, outputs = examine(part, state, session, bundle.rules(part.name), made, advance, name=clip.name)
            report, made = report + found, made | dict(outputs)
    return report + ValidationReport([], list(one_frame_note(made, model.step)))
