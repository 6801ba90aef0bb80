"""What was asked for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sttm_export.contracts.calibration import GivenCalibration
from sttm_export.contracts.decoding import MOST_CHUNK, MOST_TEXT, DecoderWeights, Decoding, largest_group
from sttm_export.contracts.graph import ACCUMULATES, INT8, PRECISIONS
from sttm_export.contracts.merge import MAX_FRAMES, MergeSpec
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.recipe import Recipe
from sttm_export.contracts.target import TargetSpec, find_target
from sttm_export.engines.build import check_capabilities
from sttm_export.errors import UserError, did_you_mean
from sttm_export.families.part import Part
from sttm_export.families.registry import parts_of
from sttm_export.language.checkpoint import check_groups, embedding_shapes
from sttm_export.quantization.points import check_ranges, pick_points
from sttm_export.weights.layout import Shape
from sttm_export.workflows.output import check_output
from sttm_export.workflows.thresholds import check_calibrated_model


@dataclass(frozen=True)
class ExportPlan:
    """Everything `run_export` needs."""

    recipe: Recipe
    weights: str | None  # directory or hub id; None with a seed
    random_seed: int | None  # seed of random weights; None with weights
    tower_weights: str | None  # the tower's own checkpoint, where the model's has none
    targets: tuple[TargetSpec, ...]  # what the rules are checked for and engines are built for
    capabilities: tuple[str, ...]  # compute capabilities asked for; empty for the defaults
    engines: bool  # whether to build engines at all
    clip: Path | None  # video for the validation; None for a synthetic one
    validation_frames: int  # frames to validate on; 0 for no validation
    output: Path  # the bundle's directory
    force: bool  # whether a bundle at `output` may be replaced
    calibration: GivenCalibration | None = None  # what `sttm-export calibrate` wrote
    int8_layers: str = "auto"  # of an int8 encoder: auto, all, or names and patterns

    @property
    def model(self) -> ModelSpec:
        """What is exported."""
        return self.recipe.model

    @property
    def merge(self) -> MergeSpec:
        """Constants of the token merger."""
        return self.recipe.merge

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the model, built once; the options must have been checked."""
        return parts_of(self.recipe)

    @property
    def shapes(self) -> dict[str, Shape]:
        """All parameters that are read."""
        table = embedding_shapes(self.recipe.decoder) if self.recipe.decoding else {}
        return table | {name: shape for part in self.parts for name, shape in part.shapes.items()}


def default_output(
    model: ModelSpec, budget: float, frames: int, precision: str, decoding: Decoding | None = None
) -> Path:
    """`llava-video-7b-t32-b0.5-fp16` in the working directory; with a decoder `-l2` behind it, and `-int4`."""
    layer = f"-l{decoding.merge_layer}" if decoding else ""
    weights = f"-{decoding.weights}" if decoding and decoding.weights != "float" else ""
    return Path(f"{model.name}-t{frames}-b{budget:g}-{precision}{layer}{weights}")


def pick_decoding(
    model: ModelSpec,
    precision: str,
    merge_layer: int | None,
    group_layers: int | None,
    chunk: int,
    text: int,
    weights: str | None = None,
) -> Decoding:
    """How the language model is exported, with the model's own layer and groups where none are given.

    Raises:
        UserError: the model has no language model, or a number that is not possible.
    """
    decoder = model.decoder
    if decoder is None:
        raise UserError(
            f"The file of {model.name} describes no language model; add its table 'decoder', or leave --decoder out."
        )
    layer = model.merging.published_layer if merge_layer is None else merge_layer
    _check_option("--merge-layer", layer, 0, decoder.layers - 1, f"a layer of the {decoder.layers} of {model.title}")
    if group_layers is None:
        # Another precision is refused later, with the reason.
        known = next((name for name in PRECISIONS if name == precision), PRECISIONS[0])
        group_layers = min(decoder.layers, largest_group(decoder, known))
    _check_option("--group-layers", group_layers, 1, decoder.layers, "layers in one graph")
    _check_option("--chunk", chunk, 2, MOST_CHUNK, "rows a call")
    _check_option("--text-tokens", text, chunk, MOST_TEXT, "tokens, one chunk at least")
    return Decoding(layer, group_layers, chunk, text, _decoder_weights(model, precision, weights))


def _decoder_weights(model: ModelSpec, precision: str, wanted: str | None) -> DecoderWeights:
    """What `--decoder-precision` asks for: nothing else than `--precision` says, or four bits."""
    if wanted in (None, precision):
        return "float"
    if wanted != "int4":
        known = (precision, "int4") if precision in PRECISIONS else ("int4",)
        raise UserError(
            f"--decoder-precision {wanted} is not possible with --precision {precision}: a decoder computes in the "
            f"precision of the export, and its weights can be stored in int4.{did_you_mean(str(wanted), known)}"
        )
    if precision != "fp16":
        raise UserError(
            f"--decoder-precision int4 is not possible with --precision {precision}: INT4 weights are multiplied as "
            "float16; give --precision fp16."
        )
    assert model.decoder is not None, "who asks has checked that there is a decoder"
    check_groups(model.decoder, model.title)
    return "int4"


def _check_option(name: str, value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise UserError(f"{name} {value} is not possible; give {what}, {least} to {most}.")


def pick_targets(
    names: Sequence[str], capabilities: Sequence[str], precision: str, decoding: Decoding | None = None
) -> tuple[TargetSpec, ...]:
    """Look targets up and refuse what they do not have."""
    targets = tuple(find_target(name) for name in dict.fromkeys(names))
    check_capabilities(targets, capabilities)
    # Before `check_plan`: that the hardware lacks a precision says more than that this program does not export it.
    for target in targets:
        target.check_precision(precision)
        if decoding:
            target.check_decoder_weights(decoding.weights)
    return targets


def check_plan(plan: ExportPlan) -> None:
    """Refuse what cannot work, before any work: precision, batch, output, clip.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    recipe, step = plan.recipe, plan.model.frames_per_step
    if recipe.precision not in PRECISIONS:
        raise UserError(
            f"Graphs cannot be exported in '{recipe.precision}'.{did_you_mean(recipe.precision, PRECISIONS)}"
        )
    if recipe.accumulate not in ACCUMULATES:
        raise UserError(f"--accumulate has no '{recipe.accumulate}'.{did_you_mean(recipe.accumulate, ACCUMULATES)}")
    if not 1 <= recipe.batch <= MAX_FRAMES:
        raise UserError(f"--batch {recipe.batch} is not possible; give the frames per encoder call, 1 to {MAX_FRAMES}.")
    if recipe.batch % step:
        raise UserError(
            f"--batch {recipe.batch} is no multiple of the {step} frames that {plan.model.title} takes a step."
        )
    most = plan.merge.frames * step
    if plan.validation_frames > most or plan.validation_frames < 0:
        raise UserError(
            f"--validation-frames {plan.validation_frames} is outside 1..{most}, the frames the merger takes; give a "
            "number in that range."
        )
    _check_calibration(plan)
    check_output(plan.output, plan.force)
    if plan.clip is not None:
        from sttm_export.runtime.probe import probe

        probe(plan.clip)


def _check_calibration(plan: ExportPlan) -> None:
    """Whether the calibration is of this model, and int8 has one; its weights are compared when they are read."""
    given, model = plan.calibration, plan.model
    again = f"run `sttm-export calibrate --model {model.name}`"
    if given:
        check_calibrated_model(given, model)
    if plan.recipe.precision != INT8:
        return
    if given is None:
        raise UserError(
            f"--precision int8 needs the ranges of a calibration; {again} and give its file as --calibration."
        )
    points = plan.parts[0].points
    if not given.calibration.points:
        raise UserError(f"{given.file.name} holds no ranges, only thresholds; {again} with ranges.")
    if faults := check_ranges(points, given.calibration.points):
        raise UserError(f"{given.file.name} does not fit the vision encoder: {'; '.join(faults[:3])}; {again} again.")
    if plan.int8_layers not in ("auto", "all"):
        pick_points(plan.int8_layers, points)
