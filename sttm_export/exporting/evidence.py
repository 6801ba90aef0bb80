"""The evidence in a bundle: every stage on real frames, fixtures for other machines, and a picture."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.exporting.frames import Scene
from sttm_export.merging.budget import NOTHING_MERGES
from sttm_export.merging.outputs import reference_outputs, static_outputs
from sttm_export.merging.static import TokenMerger
from sttm_export.networks.reference import build_reference
from sttm_export.networks.vision_encoder import build_eager_encoder
from sttm_export.runtime.draw import draw_tokens
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.pipeline import encode_frames
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.sampling import uniform
from sttm_export.spec.graph import VISION_ENCODER, Accumulate, GraphSpec, Precision
from sttm_export.spec.merge import MergeSpec
from sttm_export.spec.model import ModelSpec
from sttm_export.terminal import Advance
from sttm_export.validation.finiteness import nonfinite, undefined_frames
from sttm_export.validation.results import StageResult, ValidationReport
from sttm_export.validation.stages import Stage, budget_results, validate_encoder, validate_merger

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[np.generic]
Fixture = tuple[Mapping[str, Array], Mapping[str, Array]]


@dataclass(frozen=True)
class EncoderEvidence:
    """What the encoder's stages gave.

    Attributes:
        report: their comparison.
        fixture: one batch of pixel values and the reference's features.
        features: [n, N, C], features of all frames by ONNX Runtime; what the merger is validated on.
    """

    report: ValidationReport
    fixture: Fixture
    features: NDArray[np.floating]


@dataclass(frozen=True)
class MergerEvidence:
    """What the merger's stages gave.

    Attributes:
        report: their comparison.
        fixture: inputs and the reference's outputs; None where the features are not finite, which gives no reference.
        merged: the result of ONNX Runtime.
    """

    report: ValidationReport
    fixture: Fixture | None
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
    """Reference → static eager → ONNX Runtime on one batch, then ONNX Runtime on every frame."""
    pixels, features = graph.inputs[0], graph.outputs[0]
    values = pixel_values(scene.frames, model.tower.image_size)
    picks = uniform(len(values), pixels.shape[0])
    # Every stage gets the very numbers that the graph gets.
    batch = np.resize(values[picks], pixels.shape).astype(pixels.dtype)
    kept: dict[str, NDArray[np.floating]] = {}

    def reference(given: NDArray[np.floating]) -> NDArray[np.floating]:
        advance("reference, PyTorch", 0.05)
        kept["features"] = _run_module(lambda: build_reference(model, state), given)
        return kept["features"]

    def eager(given: NDArray[np.floating]) -> NDArray[np.floating]:
        advance("static eager, PyTorch", 0.15)
        return _run_module(lambda: build_eager_encoder(model, state, precision), given)

    session = OrtSession(onnx_path, graph, low_memory=True)
    longest = max(model.tower.intermediate_size, model.projector.output_size)
    report = validate_encoder(
        reference,
        eager,
        session,
        batch,
        layers=model.tower.layers + 2,
        longest_sum=longest,
        eager_dtype=pixels.dtype,
        accumulate=accumulate,
    )
    encoded = encode_frames(
        session, graph, values, lambda done, n: advance(f"ONNX Runtime, frame {done} of {n}", 0.25 + 0.6 * done / n)
    )
    report = report.on(f"{len(set(picks))} frames") + _judge_all(session.backend, features.name, encoded)
    with np.errstate(over="ignore"):
        # What float16 cannot hold becomes an infinity, which is found when the fixture is used.
        fixture = ({pixels.name: batch}, {features.name: kept["features"].astype(features.dtype)})
    return EncoderEvidence(report, fixture, encoded)


def _judge_all(stage: str, tensor: str, encoded: NDArray[np.floating]) -> ValidationReport:
    """The batch that is compared may be finite where another frame of the clip is not."""
    fault = nonfinite(encoded)
    miss = [StageResult(stage, "", VISION_ENCODER, tensor, False, fault)] if fault else []
    return ValidationReport(miss).on(f"{len(encoded)} frames")


def examine_merger(
    merge: MergeSpec,
    graph: GraphSpec,
    onnx_path: Path,
    features: NDArray[np.floating],
    thresholds: tuple[float, float],
    advance: Advance,
) -> MergerEvidence:
    """Reference → static eager → ONNX Runtime: the clip, a part of it in the same graph, and without spatial merging.

    The last makes sure that merging across frames is seen at work: where the spatial step alone meets the budget, the
    clip itself would not show it.
    """
    session = OrtSession(onnx_path, graph)
    if fault := nonfinite(features):
        return _without_reference(merge, graph, session, features, thresholds, fault)
    merger = TokenMerger(merge)
    report, fixture, merged = ValidationReport(), None, None
    count, across_frames = len(features), (NOTHING_MERGES, thresholds[1])
    runs = ((count, thresholds), (max(1, count // 3), thresholds), (count, across_frames))
    for place, (used, limits) in enumerate(dict.fromkeys(runs)):
        advance(f"merging {used} frames in every stage", 0.85 + 0.05 * place)
        inputs = merger_inputs(graph, features, used, limits)
        eager = static_outputs(merger, inputs)
        # The published method has no budget; the reference runs at the thresholds that were solved for it.
        applied = eager["thresholds_applied"].astype(np.float64)
        reference = reference_outputs(
            merge, inputs, (float(applied[0]), float(applied[1])), _forced(merge, inputs, applied)
        )
        found = validate_merger(_always(reference), _always(eager), session, inputs, merge)
        case = f"{used} frames" + (", merged across frames alone" if limits is across_frames else "")
        report += found.on(case)
        if fixture is None:
            fixture = (inputs, reference)
            merged = MergedTokens.from_outputs(session.run(inputs), used, merge)
    if count == 1:
        report += ValidationReport([], ["the clip has one frame, so merging across frames was not seen at work"])
    assert fixture is not None and merged is not None
    return MergerEvidence(report, fixture, merged)


def _without_reference(
    merge: MergeSpec,
    graph: GraphSpec,
    session: OrtSession,
    features: NDArray[np.floating],
    thresholds: tuple[float, float],
    fault: str,
) -> MergerEvidence:
    """On features that are not finite there is nothing to compare with; the budget must hold all the same."""
    count = len(features)
    outputs = session.run(merger_inputs(graph, features, count, thresholds))
    why = f"the features it would be judged on: {fault}"
    rows = budget_results([Stage(session.backend, outputs)], merge.clip_budget(count), why)
    report = ValidationReport(rows, undefined_frames("features", features)).on(f"{count} frames")
    return MergerEvidence(report, None, MergedTokens.from_outputs(outputs, count, merge))


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
    }


def _forced(merge: MergeSpec, inputs: Mapping[str, Array], applied: NDArray[np.float64]) -> bool | None:
    """Whether the temporal step runs at a threshold <= 0: it does where that was solved, not where it was given."""
    solved = merge.policy == "budget" or applied[1] != float(inputs["temporal_threshold"])
    return True if solved else None


def _always(outputs: Mapping[str, Array]) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    return lambda _: outputs


def _run_module(build: Callable[[], nn.Module], pixels: NDArray[np.floating]) -> NDArray[np.floating]:
    """Build, run in float32 and free: two encoders in memory at once would be one too many."""
    import torch

    module = build()
    with torch.no_grad():
        result: NDArray[np.floating] = module(torch.from_numpy(pixels.astype(np.float32))).numpy()
    del module
    gc.collect()
    return result
