"""A graph, whatever runs it, against the packed reference: the check that a device can do, with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.runtime.session import Session
from sttm_export.spec.merge import MergeSpec
from sttm_export.spec.model import ModelSpec
from sttm_export.validation.results import ValidationReport
from sttm_export.validation.stages import REFERENCE, Stage, encoder_results, merger_results, nonfinite_finding

# Inputs and the reference's outputs, as `graphs.fixtures.read_fixture` gives them.
Fixture = tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]
PACKED = f"packed {REFERENCE}"


def check_encoder_fixture(session: Session, fixture: Fixture, model: ModelSpec) -> ValidationReport:
    """Run the vision encoder on the fixture and hold its features against the reference's.

    Args:
        session: of the vision encoder.
        fixture: pixel values [B, 3, S, S], and features [B, N, C].
        model: gives depth and widths, and with them the tolerance.

    Returns:
        One result for the features, by the gates of an export.
    """
    inputs, expected = fixture
    dtype = session.graph.outputs[0].dtype
    stages = [Stage(PACKED, expected, dtype), Stage(session.backend, session.run(inputs), dtype)]
    longest = max(model.tower.intermediate_size, model.projector.output_size)
    results = encoder_results(stages, layers=model.tower.layers + 2, longest_sum=longest)
    findings = nonfinite_finding("pixel values", np.asarray(inputs[session.graph.inputs[0].name]))
    return ValidationReport(results, findings)


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
    inputs, expected = fixture
    dtype = session.graph.outputs[0].dtype
    stages = [Stage(PACKED, expected, dtype), Stage(session.backend, session.run(inputs), dtype)]
    return merger_results(stages, inputs, merge)
