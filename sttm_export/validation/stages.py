"""The chain of stages: reference → static eager → ONNX Runtime (→ engine), each held against the one before it.

Comparing neighbours, not everything with the first, names the stage that departs: an error made by one stage does not
show again in the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.recipe import Rules
from sttm_export.errors import UserError
from sttm_export.runtime.finiteness import nonfinite, undefined_frames
from sttm_export.runtime.session import Session, run_whole
from sttm_export.validation.alignment import aligned_tokens
from sttm_export.validation.decisions import DecisionReport, compare_decisions, tied_cells
from sttm_export.validation.gates import Tolerance, derive_tolerance, format_of_sums, judge
from sttm_export.validation.metrics import FloatComparison, compare
from sttm_export.validation.results import StageResult, ValidationReport, skipped

Array = NDArray[np.generic]
Outputs = Mapping[str, Array]
REFERENCE, EAGER = "reference", "static eager"


@dataclass(frozen=True)
class Stage:
    """A stage of a chain that has run."""

    # As it is called in reports.
    name: str
    # By the names of the graph's outputs.
    outputs: Outputs
    # Format of the tensors between operators; gives the tolerance.
    dtype: str = "float32"
    # Format that sums and similarities are accumulated in.
    sums: str = "float32"


def run_stage(session: Session, inputs: Outputs, rules: Rules) -> Stage:
    """Run a loaded graph as the next stage of a chain."""
    # The token merger's similarities and sums are float32 whatever its features are.
    sums = (
        format_of_sums(rules.dtype, rules.accumulate, session.backend)
        if rules.graph.judge.by == "floats"
        else "float32"
    )
    return Stage(session.backend, run_whole(session, inputs), rules.dtype, sums)


def judge_stages(
    stages: Sequence[Stage], inputs: Outputs, rules: Rules, exact: Collection[str] = ()
) -> ValidationReport:
    """Hold each stage against the stage before it.

    Args:
        stages: that have run, in order.
        inputs: of the graph, that all of them ran on.
        rules: what the outputs are judged by.
        exact: names of stages that must decide as the one before them does, ties included: on inputs that have none.
    """
    if rules.graph.judge.by == "decisions":
        return _merger_results(stages, inputs, rules, exact)
    findings = undefined_frames(rules.graph.inputs[0].name.replace("_", " "), next(iter(inputs.values())))
    return ValidationReport(_float_results(stages, rules), findings)


def unjudged(stages: Sequence[Stage], inputs: Outputs, rules: Rules, why: str) -> list[StageResult]:
    """What can be said of stages whose inputs are not finite: nothing, but for the budget of merged tokens.

    Args:
        stages: that have run.
        inputs: that they ran on.
        rules: what the outputs would be judged by.
        why: what is not finite, for the rows that cannot be judged.
    """
    results = []
    name = rules.graph.name
    for stage in stages:
        if rules.graph.judge.by == "floats":
            results += [skipped(stage.name, "", name, row.name, why) for row in rules.graph.fetched]
            continue
        results.append(skipped(stage.name, "", name, "assignment", why))
        results.append(_budget_result(name, "", stage, rules.merge.clip_budget(int(inputs["num_frames"]))))
        results.append(skipped(stage.name, "", name, "tokens", why))
    return results


def _float_results(stages: Sequence[Stage], rules: Rules) -> list[StageResult]:
    """The first stage whose numbers are not finite is the miss."""
    name, judge = rules.graph.name, rules.graph.judge
    results = _nonfinite_first(stages[0], name)
    for before, stage in pairwise(stages):
        tolerance = _between(before, stage, judge.layers, judge.longest_sum, judge.scores, int8=judge.int8)
        pair = _by_slot(rules.graph, before), _by_slot(rules.graph, stage)
        found = {output: _float_result(name, output, *pair, tolerance) for output in stage.outputs}
        results += _state_joined(rules.graph, found)
    return results


def _by_slot(graph: GraphSpec, stage: Stage) -> Stage:
    """With the heads of a slot side by side, [G, M, D] → [M, G·D]: that is the row which a layer makes of a token."""
    kept = {pair.output for pair in graph.state}
    outputs = {
        name: array.swapaxes(0, 1).reshape(array.shape[1], -1) if name in kept and array.ndim > 1 else array
        for name, array in stage.outputs.items()
    }
    return replace(stage, outputs=outputs)


def _state_joined(graph: GraphSpec, found: Mapping[str, StageResult]) -> list[StageResult]:
    """Verdicts in order; of state that passed only the worst, as a group of layers has dozens of such tensors."""
    passed = [found[pair.output] for pair in graph.state if pair.output in found and found[pair.output].passed]
    worst = max(passed, key=lambda row: row.gate.needed if row.gate else 0.0, default=None)
    return [row for row in found.values() if row is worst or row not in passed]


def _merger_results(stages: Sequence[Stage], inputs: Outputs, rules: Rules, exact: Collection[str]) -> ValidationReport:
    """Decisions first, they explain the floats."""
    name, merge = rules.graph.name, rules.merge
    features, frames = cast("NDArray[np.floating]", inputs["features"]), int(inputs["num_frames"])
    if not 1 <= frames <= merge.frames:
        raise UserError(f"Cannot validate on {frames} frames; give a clip of 1 to {merge.frames}.")
    finite = not nonfinite(features[:frames])
    results = _nonfinite_first(stages[0], name) if finite else []
    tolerance_length = merge.frames * merge.cells
    for before, stage in pairwise(stages):
        report = compare_decisions(features, merge, before.outputs, stage.outputs, frames, dtype=stage.sums)
        results.append(_decision_result(name, before, stage, report, stage.name in exact))
        results.append(_budget_result(name, before.name, stage, merge.clip_budget(frames)))
        tolerance = _between(before, stage, 1, tolerance_length)
        token_fault = _not_finite(before, stage, name, "tokens") if finite else None
        results.append(token_fault or _token_result(name, before, stage, report, features[:frames], merge, tolerance))
    return ValidationReport(results, undefined_frames("features", features[:frames]))


def _between(
    before: Stage, stage: Stage, layers: int, length: int, scores: float = 0.0, *, int8: bool = False
) -> Tolerance:
    """Tolerance of the coarser of the two stages."""
    tolerances = [
        derive_tolerance(store=s.dtype, length=length, layers=layers, accumulate=s.sums, scores=scores, int8=int8)
        for s in (before, stage)
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


def _decision_result(graph: str, before: Stage, stage: Stage, report: DecisionReport, exact: bool) -> StageResult:
    passed, reason = report.passed, report.reason
    if exact and passed and report.cells_differing:
        passed, reason = False, f"{reason}, on an input that leaves nothing to rounding: {report.ties[0]}"
    return StageResult(stage.name, before.name, graph, "assignment", passed, reason, decisions=report)


def _budget_result(graph: str, against: str, stage: Stage, most: int) -> StageResult:
    """The promise to the user, on its own: at most the clip's share of tokens, and merging that came to its end."""
    count, ended = int(stage.outputs["num_tokens"]), bool(stage.outputs["converged"])
    faults = [] if count <= most else [f"{count} tokens are more than the budget of {most}"]
    faults += [] if ended else ["merging across frames did not end within the unrolled rounds"]
    reason = "; ".join(faults) or f"{count} of at most {most} tokens"
    return StageResult(stage.name, against, graph, "num_tokens", not faults, reason)


def _token_result(
    graph: str,
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
        return StageResult(stage.name, before.name, graph, name, False, reason)
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
    return StageResult(stage.name, before.name, graph, name, gate.passed, gate.reason + note, comparison, gate)


def _compare_tokens(
    before: Stage,
    stage: Stage,
    features: NDArray[np.floating],
    merge: MergeSpec,
    excused: NDArray[np.bool_] | None,
) -> tuple[FloatComparison, int]:
    pair = aligned_tokens(stage.outputs, before.outputs, len(features), merge.width, excused)
    return compare(pair.actual, pair.expected), pair.left_out
