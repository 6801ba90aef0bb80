"""The chain of stages: reference → static eager → ONNX Runtime (→ engine), each held against the one before it.

Comparing neighbours, not everything with the first, names the stage that departs: an error made by one stage does not
show again in the next. This file knows callables and sessions, not how a graph is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER, Accumulate
from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError
from sttm_export.runtime.session import Session
from sttm_export.validation.alignment import aligned_tokens
from sttm_export.validation.decisions import DecisionReport, compare_decisions, tied_cells
from sttm_export.validation.finiteness import nonfinite, undefined_frames
from sttm_export.validation.gates import Tolerance, derive_tolerance, format_of_sums, judge
from sttm_export.validation.metrics import FloatComparison, compare
from sttm_export.validation.results import StageResult, ValidationReport, skipped

Array = NDArray[np.generic]
Outputs = Mapping[str, Array]
EncoderFn = Callable[[NDArray[np.floating]], NDArray[np.floating]]
MergerFn = Callable[[Outputs], Outputs]

REFERENCE, EAGER = "reference", "static eager"


@dataclass(frozen=True)
class Stage:
    """A stage of a chain that has run.

    Attributes:
        name: as it is called in reports.
        outputs: by the names of the graph's outputs.
        dtype: format of the tensors between operators; gives the tolerance.
        sums: format that sums and similarities are accumulated in.
    """

    name: str
    outputs: Outputs
    dtype: str = "float32"
    sums: str = "float32"


def validate_encoder(
    reference_fn: EncoderFn,
    eager_fn: EncoderFn,
    onnx_session: Session,
    pixel_values: NDArray[np.floating],
    *,
    layers: int,
    longest_sum: int,
    eager_dtype: str = "float32",
    accumulate: Accumulate = "fp32",
    further: Sequence[Session] = (),
) -> ValidationReport:
    """Run the vision encoder's chain on one batch.

    Args:
        reference_fn: pixel values [B, 3, S, S] → features [B, N, C], the published model.
        eager_fn: the module that was exported, run without export.
        onnx_session: the exported graph.
        pixel_values: [B, 3, S, S], any float dtype; cast to what each stage takes.
        layers: layers of the tower and projector, for the tolerance.
        longest_sum: longest sum in them (the MLP width), for the tolerance.
        eager_dtype: format the eager module computes in.
        accumulate: what the graph asks its float16 products to be summed in.
        further: more sessions of the same graph (engines), in order.
    """
    graph = onnx_session.graph
    pixels, features = graph.inputs[0], graph.outputs[0]
    stages = [
        Stage(REFERENCE, {features.name: reference_fn(pixel_values)}),
        Stage(EAGER, {features.name: eager_fn(pixel_values)}, eager_dtype),
    ]
    for session in (onnx_session, *further):
        outputs = session.run({pixels.name: pixel_values.astype(pixels.dtype)})
        sums = format_of_sums(features.dtype, accumulate, session.backend)
        stages.append(Stage(session.backend, outputs, features.dtype, sums))
    findings = undefined_frames("pixel values", pixel_values)
    return ValidationReport(encoder_results(stages, layers=layers, longest_sum=longest_sum), findings)


def encoder_results(stages: Sequence[Stage], *, layers: int, longest_sum: int) -> list[StageResult]:
    """Hold each stage's features against the stage before; the first whose features are not finite is the miss."""
    results = _nonfinite_first(stages[0], VISION_ENCODER)
    for before, stage in pairwise(stages):
        tolerance = _between(before, stage, layers, longest_sum)
        results += [_float_result(VISION_ENCODER, name, before, stage, tolerance) for name in stage.outputs]
    return results


def validate_merger(
    reference_fn: MergerFn,
    eager_fn: MergerFn,
    onnx_session: Session,
    inputs: Outputs,
    merge: MergeSpec,
    *,
    further: Sequence[Session] = (),
    further_sums: str = "float32",
    exact: bool = False,
) -> ValidationReport:
    """Run the token merger's chain on one clip.

    Args:
        reference_fn: inputs of the token-merger graph → its outputs, by their names, in their static shapes.
        eager_fn: the same, by the module that was exported.
        onnx_session: the exported graph.
        inputs: `features`, `num_frames`, `spatial_threshold`, `temporal_threshold` in the graph's dtypes.
        merge: constants of the graph.
        further: more sessions of the same graph (engines), in order.
        further_sums: format those accumulate in; `tf32` where tensor cores may round float32 factors.
        exact: whether the graph must decide as the module does, ties included: on inputs that have none.
    """
    dtype = onnx_session.graph.outputs[0].dtype
    stages = [Stage(REFERENCE, reference_fn(inputs), dtype), Stage(EAGER, eager_fn(inputs), dtype)]
    stages.append(Stage(onnx_session.backend, onnx_session.run(inputs), dtype))
    stages += [Stage(session.backend, session.run(inputs), dtype, further_sums) for session in further]
    return merger_results(stages, inputs, merge, (onnx_session.backend,) if exact else ())


def budget_results(stages: Sequence[Stage], most: int, why: str) -> list[StageResult]:
    """What can be judged of the token merger on features that are not finite: the budget of each stage.

    Args:
        stages: that have run.
        most: tokens that the clip may keep.
        why: what is not finite, for the rows that cannot be judged.
    """
    results = []
    for stage in stages:
        results.append(skipped(stage.name, "", TOKEN_MERGER, "assignment", why))
        results.append(_budget_result("", stage, most))
        results.append(skipped(stage.name, "", TOKEN_MERGER, "tokens", why))
    return results


def merger_results(
    stages: Sequence[Stage], inputs: Outputs, merge: MergeSpec, exact: Collection[str] = ()
) -> ValidationReport:
    """Hold each stage's decisions and tokens against the stage before; decisions first, they explain the floats.

    Stages named in `exact` have no decision excused.
    """
    features, frames = cast("NDArray[np.floating]", inputs["features"]), int(inputs["num_frames"])
    if not 1 <= frames <= merge.frames:
        raise UserError(f"Cannot validate on {frames} frames; give a clip of 1 to {merge.frames}.")
    finite = not nonfinite(features[:frames])
    results = _nonfinite_first(stages[0], TOKEN_MERGER) if finite else []
    tolerance_length = merge.frames * merge.cells
    for before, stage in pairwise(stages):
        report = compare_decisions(features, merge, before.outputs, stage.outputs, frames, dtype=stage.sums)
        results.append(_decision_result(before, stage, report, stage.name in exact))
        results.append(_budget_result(before.name, stage, merge.clip_budget(frames)))
        tolerance = _between(before, stage, 1, tolerance_length)
        token_fault = _not_finite(before, stage, TOKEN_MERGER, "tokens") if finite else None
        results.append(token_fault or _token_result(before, stage, report, features[:frames], merge, tolerance))
    return ValidationReport(results, undefined_frames("features", features[:frames]))


def _between(before: Stage, stage: Stage, layers: int, length: int) -> Tolerance:
    """Tolerance of the coarser of the two stages."""
    tolerances = [
        derive_tolerance(store=s.dtype, length=length, layers=layers, accumulate=s.sums) for s in (before, stage)
    ]
    return max(tolerances, key=lambda tolerance: tolerance.relative)


def _float_result(graph: str, name: str, before: Stage, stage: Stage, tolerance: Tolerance) -> StageResult:
    if stage.outputs[name].shape != before.outputs[name].shape:
        shapes = f"shape {list(stage.outputs[name].shape)} instead of {list(before.outputs[name].shape)}"
        return StageResult(stage.name, before.name, graph, name, False, shapes)
    if fault := _not_finite(before, stage, graph, name):
        return fault
    comparison = compare(stage.outputs[name], before.outputs[name])
    gate = judge(comparison, tolerance)
    return StageResult(stage.name, before.name, graph, name, gate.passed, gate.reason, comparison, gate)


def _nonfinite_first(stage: Stage, graph: str) -> list[StageResult]:
    """The first stage is held against none; that its numbers are finite is asked all the same."""
    faults = {name: nonfinite(array) for name, array in stage.outputs.items()}
    return [StageResult(stage.name, "", graph, name, False, fault) for name, fault in faults.items() if fault]


def _not_finite(before: Stage, stage: Stage, graph: str, name: str) -> StageResult | None:
    """What can be said of a tensor that is not finite in one of two stages; None where both are.

    The stage that comes first is the one to blame: behind it nothing can be judged.
    """
    if fault := nonfinite(before.outputs[name]):
        return skipped(stage.name, before.name, graph, name, f"{name} of {before.name}: {fault}")
    if fault := nonfinite(stage.outputs[name]):
        return StageResult(stage.name, before.name, graph, name, False, fault)
    return None


def _decision_result(before: Stage, stage: Stage, report: DecisionReport, exact: bool) -> StageResult:
    passed, reason = report.passed, report.reason
    if exact and passed and report.cells_differing:
        passed, reason = False, f"{reason}, on an input that leaves nothing to rounding: {report.ties[0]}"
    return StageResult(stage.name, before.name, TOKEN_MERGER, "assignment", passed, reason, decisions=report)


def _budget_result(against: str, stage: Stage, most: int) -> StageResult:
    """The promise to the user, on its own: at most the clip's share of tokens, and merging that came to its end."""
    count, ended = int(stage.outputs["num_tokens"]), bool(stage.outputs["converged"])
    faults = [] if count <= most else [f"{count} tokens are more than the budget of {most}"]
    faults += [] if ended else ["merging across frames did not end within the unrolled rounds"]
    reason = "; ".join(faults) or f"{count} of at most {most} tokens"
    return StageResult(stage.name, against, TOKEN_MERGER, "num_tokens", not faults, reason)


def _token_result(
    before: Stage,
    stage: Stage,
    report: DecisionReport,
    features: NDArray[np.floating],
    merge: MergeSpec,
    tolerance: Tolerance,
) -> StageResult:
    name = "tokens"
    if report.contradictory:
        reason = "not comparable: the outputs contradict themselves"
        return StageResult(stage.name, before.name, TOKEN_MERGER, name, False, reason)
    comparison, left_out = _compare_tokens(before, stage, features, merge, report.excused_cells)
    gate = judge(comparison, tolerance)
    if not gate.passed:
        excused = tied_cells(features, merge, report.thresholds[1], dtype=stage.sums)
        if report.excused_cells is not None:
            excused = excused | report.excused_cells
        second, more = _compare_tokens(before, stage, features, merge, excused)
        if second.rows and judge(second, tolerance).passed:
            comparison, left_out, gate = second, more, judge(second, tolerance)
    note = f"; {left_out} tokens left out, at ties or without a counterpart" if left_out else ""
    return StageResult(stage.name, before.name, TOKEN_MERGER, name, gate.passed, gate.reason + note, comparison, gate)


def _compare_tokens(
    before: Stage,
    stage: Stage,
    features: NDArray[np.floating],
    merge: MergeSpec,
    excused: NDArray[np.bool_] | None,
) -> tuple[FloatComparison, int]:
    pair = aligned_tokens(stage.outputs, before.outputs, len(features), merge.width, excused)
    return compare(pair.actual, pair.expected), pair.left_out
