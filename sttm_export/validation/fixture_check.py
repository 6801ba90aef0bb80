"""A graph, whatever runs it, against the packed reference: the check that a device can do, with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.recipe import Rules
from sttm_export.runtime.finiteness import nonfinite
from sttm_export.runtime.session import Session
from sttm_export.validation.results import StageResult, ValidationReport, skipped
from sttm_export.validation.stages import REFERENCE, Stage, judge_stages, run_stage

# Inputs and the reference's outputs, as `graphs.fixtures.read_fixture` gives them.
Fixture = tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]
PACKED, PACKED_INPUTS = f"packed {REFERENCE}", "packed inputs"


def check_finite(graph: GraphSpec, fixture: Fixture, stage: str) -> list[StageResult]:
    """Judge the packed numbers themselves: an export packs none that is not finite.

    Args:
        graph: declaration of the fixture's tensors.
        fixture: inputs and the reference's outputs.
        stage: what would run on them.

    Returns:
        A miss for every tensor with NaN or infinities, and that the stage was not judged; nothing where all are finite.
    """
    misses = [
        StageResult(side, "", graph.name, tensor.name, False, fault)
        for side, declared, arrays in zip((PACKED_INPUTS, PACKED), (graph.inputs, graph.outputs), fixture, strict=True)
        for tensor in declared
        if (fault := nonfinite(np.asarray(arrays[tensor.name])))
    ]
    if not misses:
        return []
    why = f"{misses[0].tensor} of the {misses[0].stage}: {misses[0].reason}"
    return [*misses, *(skipped(stage, PACKED, graph.name, tensor.name, why) for tensor in graph.outputs[:1])]


def check_fixture(session: Session, fixture: Fixture, rules: Rules) -> ValidationReport:
    """Run a graph on a fixture and hold its outputs against the reference's, by the gates of an export.

    With the policy `budget` a token merger solves its thresholds itself. Another order of summing may move one by a
    rounding; what follows from that is excused as a tie where it is one, and a miss where it is not.
    """
    if damaged := check_finite(session.graph, fixture, session.backend):
        return ValidationReport(damaged)
    inputs, expected = fixture
    return judge_stages([Stage(PACKED, expected, rules.dtype), run_stage(session, inputs, rules)], inputs, rules)
