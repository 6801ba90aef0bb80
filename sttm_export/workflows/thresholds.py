"""Thresholds that a bundle suggests: given, calibrated, or published."""

from __future__ import annotations

from sttm_export.contracts.calibration import GivenCalibration, ThresholdChoice
from sttm_export.contracts.merge import MergeSpec, Thresholds, check_thresholds
from sttm_export.contracts.model import ModelSpec, counted
from sttm_export.errors import UserError


def pick_thresholds(
    model: ModelSpec,
    merge: MergeSpec,
    merge_layer: int,
    spatial: float | None,
    temporal: float | None,
    given: GivenCalibration | None = None,
) -> Thresholds:
    """Take the given thresholds; what is not given comes from a calibration, if there is one, or is published.

    Policy `budget` solves the temporal threshold, so that the spatial one alone decides whether a calibration is asked.

    Args:
        model: what is exported.
        merge: constants of its merger.
        merge_layer: decoder layer at whose input tokens merge.
        spatial: given, or None.
        temporal: given, or None.
        given: the calibration of the export.

    Raises:
        UserError: no cosine, or a calibration of another model or without such thresholds.
    """
    check_thresholds(spatial, temporal)
    wanted = spatial is None or (temporal is None and merge.policy == "threshold")
    if given is not None and wanted:
        row = _choice(given, model, merge, merge_layer)
        known, source = (row.spatial, row.temporal), _described(given)
    else:
        published = model.published_thresholds(merge.budget)
        known, source = (published.spatial, published.temporal), f"published for a budget of {published.budget:g}"
    parts = [
        f"{name} given" if value is not None else f"{name} {source}"
        for name, value in (("spatial", spatial), ("temporal", temporal))
    ]
    return Thresholds(
        known[0] if spatial is None else spatial, known[1] if temporal is None else temporal, ", ".join(parts)
    )


def check_calibrated_model(given: GivenCalibration, model: ModelSpec) -> None:
    """Refuse a calibration of another model.

    Raises:
        UserError: says which.
    """
    if given.calibration.model != model.name:
        raise UserError(
            f"{given.file.name} is a calibration of {given.calibration.model}, and {model.name} is exported; run "
            f"`sttm-export calibrate --model {model.name}`."
        )


def _described(given: GivenCalibration) -> str:
    """`calibrated on 3 clips (calibration.json, sha256 0123456789abcdef…)`."""
    return f"calibrated on {counted(given.file.clips, 'clip')} ({given.file.name}, sha256 {given.file.sha256[:16]}…)"


def _choice(given: GivenCalibration, model: ModelSpec, merge: MergeSpec, merge_layer: int) -> ThresholdChoice:
    """The row of an export; a published one never stands in for it in silence."""
    check_calibrated_model(given, model)
    instead = "--spatial-threshold" + (" and --temporal-threshold" if merge.policy == "threshold" else "")
    own = {"--root-level": (merge.root_level, model.merging.root_level)}
    own |= {"--weighted-avg": (merge.weighted_avg, False), "--head-dim": (merge.head_dim, 0)}
    for option, (asked, default) in own.items():
        if asked != default:
            raise UserError(
                f"{given.file.name} has thresholds for merging as {model.title} does by default, without {option}; "
                f"leave {option} out, or give {instead}."
            )
    row = given.calibration.choice(merge.budget, merge.frames, merge_layer)
    if row is None:
        frames = merge.frames * model.frames_per_step
        there = "; ".join(
            f"budget {row.budget:g}, T {row.frames}, layer {row.merge_layer}" for row in given.calibration.thresholds
        )
        raise UserError(
            f"{given.file.name} has no thresholds for budget {merge.budget:g}, T {merge.frames}, layer {merge_layer} "
            f"(it has: {there or 'none'}); calibrate with --budget {merge.budget:g} --frames {frames} --merge-layer "
            f"{merge_layer}, or give {instead}."
        )
    return row
