"""Checking a bundle that exists: on its fixtures, which needs no weights, or on a fresh clip, which does."""

from __future__ import annotations

from pathlib import Path

from sttm_export.bundle.opened import CLIP, Bundle
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.engines.selection import Selection
from sttm_export.errors import UserError
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.kit.check_job import check_fixtures
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.trt_session import TrtSession
from sttm_export.terminal import Advance, Steps
from sttm_export.validation.fixture_check import check_finite
from sttm_export.validation.results import ValidationReport, skipped
from sttm_export.workflows.bundle_weights import load_bundle_weights
from sttm_export.workflows.evidence import examine_encoder, examine_merger
from sttm_export.workflows.scene import take_scene

_FIXTURES = "the fixtures"


def validate_on_fixtures(bundle: Bundle, steps: Steps) -> ValidationReport:
    """Run both graphs on the packed inputs; the encoder's reference is packed too, the merger's runs anew.

    Raises:
        UserError: the bundle was exported without validation and has no fixtures.
    """
    if not bundle.fixture_path(VISION_ENCODER).is_file():
        raise UserError(
            f"{bundle.path} was exported with --no-validation and has no fixtures; validate it with --clip FILE, or "
            "export it with validation."
        )
    with steps.step("Validate on the fixtures") as advance:
        advance("vision encoder", 0.1)
        graph = bundle.graph(VISION_ENCODER)
        report = check_fixtures(OrtSession(bundle.onnx_path(VISION_ENCODER), graph, low_memory=True), bundle)
        return report.on(_FIXTURES) + _check_merger(bundle, advance)


def _check_merger(bundle: Bundle, advance: Advance) -> ValidationReport:
    """Every stage on the packed features; an export whose features were not finite has packed none."""
    graph, path = bundle.graph(TOKEN_MERGER), bundle.fixture_path(TOKEN_MERGER)
    if not path.is_file() and bundle.manifest.missed:
        why = "the bundle has no fixture of it, because the features it would be judged on were not finite"
        return ValidationReport([skipped("every stage", "", TOKEN_MERGER, "tokens", why)]).on(_FIXTURES)
    for case, file in bundle.fixture_paths(TOKEN_MERGER).items():
        if damaged := check_finite(graph, read_fixture(file, graph), "every stage"):
            return ValidationReport(damaged).on("the clip" if case == CLIP else f"the case {case}").on(_FIXTURES)
    fixture = read_fixture(path, graph)
    inputs, count = fixture[0], int(fixture[0]["num_frames"])
    if not 1 <= count <= bundle.merge.frames:
        raise UserError(
            f"{path} is of {count} frames, the graph takes 1 to {bundle.merge.frames}; export the bundle again."
        )
    limits = (bundle.manifest.thresholds.spatial, bundle.manifest.thresholds.temporal)
    features = inputs["features"][:count]
    return examine_merger(
        bundle.merge, graph, bundle.onnx_path(TOKEN_MERGER), features, limits, advance, _FIXTURES
    ).report


def validate_engines(bundle: Bundle, selection: Selection, steps: Steps) -> ValidationReport:
    """Run the bundle's engines on the packed inputs and hold them against the packed outputs of the reference.

    Args:
        bundle: with engines and fixtures.
        selection: those of its engines that run here.
        steps: told of the progress.

    Raises:
        UserError: an engine does not load, or failed.
    """
    report = ValidationReport()
    with steps.step(f"Validate the engines of {selection.target}") as advance:
        for place, name in enumerate((VISION_ENCODER, TOKEN_MERGER)):
            advance(name, place / 2)
            graph = bundle.graph(name)
            with TrtSession(selection.engines[name], graph) as session:
                report += check_fixtures(session, bundle)
    return report.on(_FIXTURES)


def validate_on_clip(
    bundle: Bundle, clip: Path, weights: str | None, tower_weights: str | None, steps: Steps
) -> ValidationReport:
    """Run every stage on a fresh clip, the reference from the weights the bundle was made of.

    Raises:
        UserError: weights are missing or others than the bundle's, or the clip cannot be read.
    """
    model, thresholds = bundle.model, bundle.manifest.thresholds
    scene = take_scene(clip, min(bundle.merge.frames, 32))
    with steps.step("Read the weights"):
        state = load_bundle_weights(bundle, weights, tower_weights, "leave --clip out to validate on the fixtures")
    with steps.step("Validate on the clip") as advance:
        graph, merger = bundle.graph(VISION_ENCODER), bundle.graph(TOKEN_MERGER)
        path, precision = bundle.onnx_path(VISION_ENCODER), bundle.manifest.precision
        first = examine_encoder(model, precision, bundle.accumulate, state, graph, path, scene, advance)
        limits = (thresholds.spatial, thresholds.temporal)
        path = bundle.onnx_path(TOKEN_MERGER)
        second = examine_merger(bundle.merge, merger, path, first.features, limits, advance, clip.name)
    return first.report + second.report
