"""The evidence in a bundle: every stage on real frames, fixtures for other machines, and a picture."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sttm_export.bundle.opened import CLIP
from sttm_export.contracts.graph import VISION_ENCODER, Accumulate, GraphSpec, Precision
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.model import ModelSpec
from sttm_export.families.llava.reference import build_reference
from sttm_export.families.llava.vision_encoder import build_eager_encoder
from sttm_export.merging.budget import NOTHING_MERGES
from sttm_export.merging.outputs import reference_outputs, static_outputs
from sttm_export.merging.static import TokenMerger
from sttm_export.runtime.draw import draw_tokens
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.pipeline import encode_frames
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.sampling import uniform
from sttm_export.terminal import Advance
from sttm_export.validation.finiteness import nonfinite, undefined_frames
from sttm_export.validation.results import StageResult, ValidationReport, frames_text
from sttm_export.validation.stages import Stage, budget_results, validate_encoder, validate_merger
from sttm_export.workflows.edge_cases import edge_clips, edge_pixels
from sttm_export.workflows.scene import Scene

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[np.generic]
Result = TypeVar("Result")
Fixture = tuple[Mapping[str, Array], Mapping[str, Array]]


@dataclass(frozen=True)
class EncoderEvidence:
    """What the encoder's stages gave.

    Attributes:
        report: their comparison.
        fixtures: by case, one batch of pixel values and the reference's features.
        features: [n, N, C], features of all frames by ONNX Runtime; what the merger is validated on.
    """

    report: ValidationReport
    fixtures: Mapping[str, Fixture]
    features: NDArray[np.floating]


@dataclass(frozen=True)
class MergerEvidence:
    """What the merger's stages gave.

    Attributes:
        report: their comparison.
        fixtures: by case, inputs and the reference's outputs; none where the features are not finite, which gives no
            reference.
        merged: the result of ONNX Runtime.
    """

    report: ValidationReport
    fixtures: Mapping[str, Fixture]
    merged: MergedTokens


def examine_encoder(
    model: ModelSpec,
    precision: Precision,
    accumulate: Accumulate,
    state: Mapping[str, Tensor],
    graph: GraphSpec,
    onnx_path: Path,
    scene: Scene,
    advance: Advance,
) -> EncoderEvidence:
    """Reference → static eager → ONNX Runtime on a batch of frames and on edge cases; ONNX Runtime on every frame."""
    pixels, features = graph.inputs[0], graph.outputs[0]
    values = pixel_values(scene.frames, model.tower.image_size)
    batches = _batches(graph, values)
    advance("reference, PyTorch", 0.05)
    expected = _run_module(lambda: build_reference(model, state), batches)
    advance("static eager, PyTorch", 0.15)
    eager = _run_module(lambda: build_eager_encoder(model, state, precision), batches)
    session = OrtSession(onnx_path, graph, low_memory=True)
    longest = max(model.tower.intermediate_size, model.projector.output_size)
    report = ValidationReport()
    for case, batch in batches.items():
        found = validate_encoder(
            _always(expected[case]),
            _always(eager[case]),
            session,
            batch,
            layers=model.tower.layers + 2,
            longest_sum=longest,
            eager_dtype=pixels.dtype,
            accumulate=accumulate,
        )
        taken = frames_text(len(set(uniform(len(values), pixels.shape[0]))))
        edges = "edge frames: grey, black, white, chessboards"
        report += found.on(f"{taken} of {scene.name}" if case == CLIP else edges)
    encoded = encode_frames(
        session, graph, values, lambda done, n: advance(f"ONNX Runtime, frame {done} of {n}", 0.25 + 0.6 * done / n)
    )
    report += _judge_all(session.backend, features.name, encoded).on(scene.name)
    with np.errstate(over="ignore"):
        # What float16 cannot hold becomes an infinity, which is found when the fixture is used.
        fixtures = {
            case: ({pixels.name: batch}, {features.name: expected[case].astype(features.dtype)})
            for case, batch in batches.items()
        }
    return EncoderEvidence(report, fixtures, encoded)


def _judge_all(stage: str, tensor: str, encoded: NDArray[np.floating]) -> ValidationReport:
    """The batch that is compared may be finite where another frame of the clip is not."""
    fault = nonfinite(encoded)
    miss = [StageResult(stage, "", VISION_ENCODER, tensor, False, fault)] if fault else []
    return ValidationReport(miss).on(frames_text(len(encoded)))


def examine_merger(
    merge: MergeSpec,
    graph: GraphSpec,
    onnx_path: Path,
    features: NDArray[np.floating],
    thresholds: tuple[float, float],
    advance: Advance,
    clip: str = "the clip",
) -> MergerEvidence:
    """Reference → static eager → ONNX Runtime: the clip, a part of it, without spatial merging, and edge cases.

    The third makes sure that merging across frames is seen at work: where the spatial step alone meets the budget, the
    clip itself would not show it. On the edge cases the graph must decide exactly as the module does. Results say what
    they were found on: so many frames of `clip`, or which edge case.
    """
    session = OrtSession(onnx_path, graph)
    if fault := nonfinite(features):
        return _without_reference(merge, graph, session, features, thresholds, fault, clip)
    merger = TokenMerger(merge)
    report, fixtures, merged = ValidationReport(), {}, None
    for place, (key, case, inputs) in enumerate(_merger_runs(merge, graph, features, thresholds)):
        advance(f"merging {case} in every stage", 0.85 + 0.025 * place)
        eager = static_outputs(merger, inputs)
        # The published method has no budget; the reference runs at the thresholds that were solved for it.
        applied = eager["thresholds_applied"].astype(np.float64)
        reference = reference_outputs(
            merge, inputs, (float(applied[0]), float(applied[1])), _forced(merge, inputs, applied)
        )
        edge = key not in ("", CLIP)
        found = validate_merger(_always(reference), _always(eager), session, inputs, merge, exact=edge)
        report += found.on(case if edge else f"{case} of {clip}")
        if key:
            fixtures[key] = (inputs, reference)
        if key == CLIP:
            merged = MergedTokens.from_outputs(session.run(inputs), len(features), merge)
    if len(features) == 1:
        report += ValidationReport([], ["the clip has one frame, so merging across frames was not seen at work"])
    assert merged is not None
    return MergerEvidence(report, fixtures, merged)


def _merger_runs(
    merge: MergeSpec, graph: GraphSpec, features: NDArray[np.floating], thresholds: tuple[float, float]
) -> Iterator[tuple[str, str, dict[str, Array]]]:
    """Key of the fixture (empty: none), what the input is, and the input; one in memory at a time."""
    count, part = len(features), max(1, len(features) // 3)
    yield CLIP, frames_text(count), merger_inputs(graph, features, count, thresholds)
    if part < count:
        yield "", frames_text(part), merger_inputs(graph, features, part, thresholds)
    across_frames = merger_inputs(graph, features, count, (NOTHING_MERGES, thresholds[1]))
    yield "", f"merging across frames alone, {frames_text(count)}", across_frames
    for clip in edge_clips(merge, graph.inputs[0].dtype):
        inputs = merger_inputs(graph, clip.features, clip.frames, clip.thresholds)
        # Frames that do not count are as the clip has them, not zeros.
        yield clip.key, f"an edge clip: {clip.name}", inputs | {"features": clip.features}


def _batches(graph: GraphSpec, values: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
    """Batches [B, 3, S, S] by the case they belong to; every stage gets the very numbers that the graph gets."""
    pixels = graph.inputs[0]
    batch = pixels.shape[0]
    edges = edge_pixels(pixels.shape[-1], pixels.dtype)
    rows = {CLIP: values[uniform(len(values), batch)]}
    rows |= {f"edges{start // batch + 1}": edges[start : start + batch] for start in range(0, len(edges), batch)}
    return {case: np.resize(some, pixels.shape).astype(pixels.dtype) for case, some in rows.items()}


def _without_reference(
    merge: MergeSpec,
    graph: GraphSpec,
    session: OrtSession,
    features: NDArray[np.floating],
    thresholds: tuple[float, float],
    fault: str,
    clip: str,
) -> MergerEvidence:
    """On features that are not finite there is nothing to compare with; the budget must hold all the same."""
    count = len(features)
    outputs = session.run(merger_inputs(graph, features, count, thresholds))
    why = f"the features it would be judged on: {fault}"
    rows = budget_results([Stage(session.backend, outputs)], merge.clip_budget(count), why)
    report = ValidationReport(rows, undefined_frames("features", features)).on(f"{frames_text(count)} of {clip}")
    return MergerEvidence(report, {}, MergedTokens.from_outputs(outputs, count, merge))


def merger_inputs(
    graph: GraphSpec, features: NDArray[np.floating], count: int, thresholds: tuple[float, float]
) -> dict[str, Array]:
    """Inputs of the token-merger graph for the first `count` frames, padded with zeros up to T."""
    declared = graph.inputs[0]
    padded = np.zeros(declared.shape, declared.dtype)
    padded[:count] = features[:count]
    return {
        "features": padded,
        "num_frames": np.array(count, np.int32),
        "spatial_threshold": np.array(thresholds[0], np.float32),
        "temporal_threshold": np.array(thresholds[1], np.float32),
    }


def draw_example(path: Path, scene: Scene, merged: MergedTokens, model: ModelSpec) -> Path:
    """Draw the merged tokens over the frames."""
    return draw_tokens(
        scene.frames, merged, model.grid, path, timestamps=scene.timestamps, title=f"{model.title}, {scene.name}"
    )


def example_json(scene: Scene, merged: MergedTokens) -> dict[str, Any]:
    """What the report shows of the validation clip."""
    return {
        "clip": scene.name,
        "note": scene.note,
        "num_tokens": merged.num_tokens,
        "max_tokens": merged.max_tokens,
        "tokens_per_frame": merged.new_tokens_per_frame().tolist(),
        "timestamps": [round(float(time), 3) for time in scene.timestamps],
        "thresholds": [float(value) for value in merged.thresholds],
        "margins": [float(value) for value in merged.margins],
        "converged": merged.converged,
    }


def _forced(merge: MergeSpec, inputs: Mapping[str, Array], applied: NDArray[np.float64]) -> bool | None:
    """Whether the temporal step runs at a threshold <= 0: it does where that was solved, not where it was given."""
    solved = merge.policy == "budget" or applied[1] != float(inputs["temporal_threshold"])
    return True if solved else None


def _always(result: Result) -> Callable[[Any], Result]:
    return lambda _: result


def _run_module(
    build: Callable[[], nn.Module], batches: Mapping[str, NDArray[np.floating]]
) -> dict[str, NDArray[np.floating]]:
    """Build, run in float32 and free: two encoders in memory at once would be one too many."""
    import torch

    module = build()
    with torch.no_grad():
        results: dict[str, NDArray[np.floating]] = {
            case: module(torch.from_numpy(batch.astype(np.float32))).numpy() for case, batch in batches.items()
        }
    del module
    gc.collect()
    return results
