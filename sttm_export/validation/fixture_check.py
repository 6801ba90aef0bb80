"""A graph, whatever runs it, against the packed reference: the check that a device can do, with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import Accumulate, GraphSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.model import ModelSpec
from sttm_export.runtime.session import Session
from sttm_export.validation.finiteness import nonfinite
from sttm_export.validation.gates import format_of_sums
from sttm_export.validation.results import StageResult, ValidationReport, skipped
from sttm_export.validation.stages import REFERENCE, Stage, encoder_results, merger_results

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


def check_encoder_fixture(
    session: Session, fixture: Fixture, model: ModelSpec, accumulate: Accumulate
) -> ValidationReport:
    """Run the vision encoder on the fixture and hold its features against the reference's.

    Args:
        session: of the vision encoder.
        fixture: pixel values [B, 3, S, S], and features [B, N, C].
        model: gives depth and widths, and with them the tolerance.
        accumulate: what the graph asks its float16 products to be summed in.

    Returns:
        One result for the features, by the gates of an export.
    """
    if damaged := check_finite(session.graph, fixture, session.backend):
        return ValidationReport(damaged)
    inputs, expected = fixture
    dtype = session.graph.outputs[0].dtype
    sums = format_of_sums(dtype, accumulate, session.backend)
    stages = [Stage(PACKED, expected, dtype), Stage(session.backend, session.run(inputs), dtype, sums)]
    longest = max(model.tower.intermediate_size, model.projector.output_size)
    return ValidationReport(encoder_results(stages, layers=model.tower.layers + 2, longest_sum=longest))


def check_merger_fixture(session: Session, fixture: Fixture, merge: MergeSpec) -> ValidationReport:
    """Run the token merger on the fixture and compare decisions, budget and tokens with the reference's.

    With the policy `budget` the graph solves its thresholds itself. Another order of summing may move one by a
    rounding; what follows from that is excused as a tie where it is one, and a miss where it is not.

    Args:
        session: of the token merger.
        fixture: features, number of frames and thresholds, and the outputs of the reference.
        merge: constants of the graph.

    Returns:
        Results for decisions, budget and tokens, by the gates of an export.
    """
    if damaged := check_finite(session.graph, fixture, session.backend):
        return ValidationReport(damaged)
    inputs, expected = fixture
    dtype = session.graph.outputs[0].dtype
    stages = [Stage(PACKED, expected, dtype), Stage(session.backend, session.run(inputs), dtype)]
    return merger_results(stages, inputs, merge)
