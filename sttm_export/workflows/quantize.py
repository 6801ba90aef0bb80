"""The int8 vision encoder of an export: a calibration's ranges, the layers that can bear it, and what it cost.

Layers are chosen against the features that the float encoder makes of the validation clip and of edge frames, by the
gate that the exported graph must pass, with some room: what is chosen here is judged again later.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sttm_export.contracts.calibration import GivenCalibration, PointRange
from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.quantization import Quantization, QuantizedPoint
from sttm_export.contracts.recipe import Recipe
from sttm_export.errors import UserError
from sttm_export.families.modules import as_stage
from sttm_export.families.part import Arrays, Case, Part, Stage, State
from sttm_export.families.registry import parts_of
from sttm_export.families.stage_session import StageSession
from sttm_export.quantization.points import pick_points
from sttm_export.quantization.selection import fewest_kept, ranked
from sttm_export.quantization.sensitivity import costs
from sttm_export.terminal import Advance
from sttm_export.validation.gates import Tolerance, derive_tolerance
from sttm_export.validation.metrics import compare, encode_float

AUTO, ALL = "auto", "all"
ROOM = 0.8
"""Of the gate that `auto` lets int8 take: the graph differs from the module that is tried here by its roundings."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Int8Encoder:
    """What was chosen."""

    part: Part  # with int8 products
    recipe: Recipe
    record: Quantization
    features: Floats  # of the whole clip, by the float encoder


def check_weights(given: GivenCalibration, digest: str) -> None:
    """Refuse a calibration of other weights than those that were read.

    Raises:
        UserError: says which.
    """
    recorded = given.calibration.weights_sha256
    if recorded != digest:
        raise UserError(
            f"{given.file.name} was calibrated with other weights of the vision encoder (sha256 {recorded[:12]}…, "
            f"these are {digest[:12]}…); run `sttm-export calibrate` with these weights."
        )


def quantize_encoder(
    recipe: Recipe, given: GivenCalibration, asked: str, state: State, clip: Arrays, advance: Advance
) -> Int8Encoder:
    """Choose the int8 layers of a vision encoder.

    Args:
        recipe: of the export, in precision int8, without ranges.
        given: the calibration, of this model and these weights.
        asked: `auto`, `all`, or names and patterns.
        state: the encoder's weights.
        clip: `pixel_values` of the frames to choose on.
        advance: told what runs.
    """
    known = {row.name: row for row in given.calibration.points}
    base = _encoder(recipe, ())
    ranges = [known[point.name] for point in base.points]
    advance("the float encoder", None)
    module = base.module(state).float().eval()
    stage = as_stage(module, base.graph)
    cases = list(base.cases(clip))
    expected = [stage(case.inputs, {}) for case in cases]
    features = _features(base, stage, clip, advance)
    advance("what each layer costs", None)
    found = costs(module, base.points, ranges, _one_step(base.graph, cases[0]))
    del module, stage
    gc.collect()
    trials = _Trials(recipe, state, known, cases, expected, advance)
    names = [point.name for point in base.points]
    if asked == AUTO:
        kept = fewest_kept(ranked(found), trials.passes)
        chosen = [name for name in names if name not in kept]
    else:
        chosen = names if asked == ALL else list(pick_points(asked, base.points))
    part = _encoder(recipe, [known[name] for name in chosen])
    record = Quantization(
        layers=asked,
        points=tuple(_row(row, row.name in chosen, found[row.name]) for row in ranges),
        weight_bytes=weight_bytes(part, chosen),
        weight_bytes_float16=weight_bytes(part, ()),
        trials=trials.count,
    )
    return Int8Encoder(part, replace(recipe, ranges=tuple(known[name] for name in chosen)), record, features)


def _encoder(recipe: Recipe, ranges: Sequence[PointRange]) -> Part:
    return parts_of(replace(recipe, ranges=tuple(ranges)))[0]


def _features(part: Part, stage: Stage, clip: Arrays, advance: Advance) -> Floats:
    """The float encoder over all frames of the clip."""
    count = len(next(iter(clip.values())))
    made = part.forward(
        StageSession(stage, part.graph), clip, lambda done, _: advance(f"{done} of {count} frames, float", None)
    )
    return cast("Floats", made[part.graph.outputs[0].name])


def _one_step(graph: GraphSpec, case: Case) -> torch.Tensor:
    """The first step of a case: a backward pass keeps every activation."""
    pixels, features = graph.inputs[0], graph.outputs[0]
    frames = pixels.shape[0] // features.shape[0]
    return torch.from_numpy(np.asarray(case.inputs[pixels.name])[:frames].astype(np.float32))


@dataclass
class _Trials:
    """Encoders with more or fewer int8 layers, tried on the cases."""

    recipe: Recipe
    state: State
    known: dict[str, PointRange]
    cases: Sequence[Case]
    expected: Sequence[Arrays]
    advance: Advance
    count: int = 0

    def passes(self, kept: Sequence[str]) -> bool:
        """Whether the features meet the gate, with room, when these points stay float16."""
        self.count += 1
        self.advance(f"trial {self.count}, {len(kept)} of {len(self.known)} layers in float16", None)
        part = _encoder(self.recipe, [row for name, row in self.known.items() if name not in kept])
        stage, allowed = part.eager(self.state), gate_of(part).relative
        output = part.graph.outputs[0].name
        for case, before in zip(self.cases, self.expected, strict=True):
            needed = compare(stage(case.inputs, {})[output], before[output]).relative_needed
            if not needed <= ROOM * allowed:
                return False
        return True


def gate_of(part: Part) -> Tolerance:
    """What the features of an encoder are held to."""
    judge, store = part.graph.judge, part.graph.outputs[0].dtype
    return derive_tolerance(store=store, length=judge.longest_sum, layers=judge.layers, int8=judge.int8)


def weight_bytes(part: Part, int8: Sequence[str]) -> int:
    """Bytes of an encoder's parameters, the weights of some points in int8 with a float32 step for each output."""
    narrow = {name for point in part.points if point.name in int8 for name in point.weights}
    sizes = (prod(shape) + 4 * shape[0] if name in narrow else 2 * prod(shape) for name, shape in part.shapes.items())
    return sum(sizes)


def _row(row: PointRange, int8: bool, cost: float) -> QuantizedPoint:
    moved = sum(exponent != 0 for exponent in row.exponents)
    levels = (_decibels(float(row.errors[row.method])), _decibels(float(row.error_unscaled)))
    return QuantizedPoint(row.name, int8, row.method, moved, *levels, encode_float(cost))


def _decibels(relative: float) -> Any:
    return encode_float(-20.0 * math.log10(relative) if relative > 0.0 else math.inf)


def summary(record: Quantization) -> str:
    """One line: how many layers are int8, what is kept and what costs most."""
    shown = sorted(record.points, key=lambda row: -float(row.cost))[:3]
    costly = ", ".join(f"{row.name} {float(row.cost):.2g}" for row in shown)
    kept = f"; in float16: {', '.join(row.name for row in record.kept[:6])}" if record.kept else ""
    more = f" and {len(record.kept) - 6} more" if len(record.kept) > 6 else ""
    return (
        f"{len(record.int8)} of {len(record.points)} layers in int8; most costly for the features: {costly}{kept}{more}"
    )
