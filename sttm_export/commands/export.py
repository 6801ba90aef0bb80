"""`sttm-export [export] --model … --budget …`."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from sttm_export.commands.values import path_value, text_value
from sttm_export.commands.weights import add_weights
from sttm_export.errors import UserError

if TYPE_CHECKING:
    from sttm_export.contracts.decoding import Decoding
    from sttm_export.contracts.model import ModelSpec

CHUNK = 256
"""Rows a call: enough for a processor to be busy, few enough for scores that fit beside the weights."""
TEXT, TEXT_A_FRAME = 1024, 8
"""Tokens of prompt, question and answer; LLaVA-Video's prompt names the time of each frame."""
HELP = "Export vision encoder, token merger and, if wanted, language model; build engines, validate, write a bundle."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = parser.add_argument_group("what")
    what.add_argument(
        "--model", type=text_value, required=True, metavar="NAME", help="a name of `sttm-export models`, or a TOML file"
    )
    what.add_argument(
        "--budget", required=True, type=float, metavar="F", help="share of the visual tokens to keep, (0, 1]"
    )
    what.add_argument("--frames", type=int, default=32, metavar="T", help="most frames of a clip (default: 32)")
    what.add_argument("--batch", type=int, default=4, metavar="B", help="frames per call of the encoder (default: 4)")
    what.add_argument("--precision", default="fp16", metavar="P", help="fp16, fp32 or int8 (default: fp16)")
    what.add_argument(
        "--accumulate",
        default="fp32",
        metavar="A",
        help="sums of fp16 products: fp32, as the graph then asks for; default: as the engine chooses (default: fp32)",
    )
    what.add_argument(
        "--calibration",
        type=path_value,
        metavar="FILE",
        help="what `sttm-export calibrate` wrote: thresholds are taken from it; int8 needs one",
    )
    what.add_argument(
        "--int8-layers",
        type=text_value,
        metavar="L",
        help="with --precision int8: auto, as many as keep the features; all; or names and patterns, '*.fc1,*.fc2' "
        "(default: auto)",
    )
    _add_merging(parser)
    _add_language(parser)
    add_weights(parser)
    engines = parser.add_argument_group("engines")
    engines.add_argument(
        "--target", action="append", metavar="NAME", help="repeatable: rtx, jetson-orin-jp62, … (default: rtx)"
    )
    engines.add_argument(
        "--compute-capability",
        action="append",
        default=[],
        metavar="SM",
        help="repeatable (default for rtx: sm86, sm89)",
    )
    engines.add_argument("--no-engines", action="store_true", help="check the targets' rules, build nothing")
    checks = parser.add_argument_group("validation")
    checks.add_argument(
        "--clip", type=path_value, metavar="FILE", help="video to validate on (default: a synthetic scene)"
    )
    checks.add_argument(
        "--validation-frames", type=int, metavar="N", help="frames to validate on (default: T, at most 32)"
    )
    checks.add_argument("--no-validation", action="store_true", help="write a bundle that says it is unchecked")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", type=path_value, metavar="DIR", help="the bundle (default: MODEL-tT-bBUDGET-PRECISION)"
    )
    output.add_argument("--force", action="store_true", help="replace a bundle that is there")
    output.add_argument(
        "--dry-run", action="store_true", help="show sizes, memory and time of every part, and write nothing"
    )


def _add_merging(parser: argparse.ArgumentParser) -> None:
    merging = parser.add_argument_group("merging")
    merging.add_argument(
        "--policy",
        default="budget",
        metavar="P",
        help="budget: solve the thresholds that fill the budget; threshold: the given ones, capped (default: budget)",
    )
    merging.add_argument(
        "--spatial-threshold", type=float, metavar="F", help="default of the bundle (default: calibrated, or published)"
    )
    merging.add_argument(
        "--temporal-threshold",
        type=float,
        metavar="F",
        help="with --policy threshold: default (default: calibrated, or published)",
    )
    merging.add_argument("--root-level", type=int, metavar="L", help="pyramid level to start at (default: the model's)")
    merging.add_argument("--weighted-avg", action="store_true", help="area-weighted means (default: off)")
    merging.add_argument("--head-dim", type=int, default=0, metavar="D", help="per-head similarity (default: 0, off)")


def _add_language(parser: argparse.ArgumentParser) -> None:
    language = parser.add_argument_group("language model")
    language.add_argument("--decoder", action="store_true", help="export it too: `sttm-export ask` answers questions")
    language.add_argument(
        "--decoder-precision",
        metavar="P",
        help="int4: its weights in four bits, groups of 128, a quarter of their memory (default: that of --precision)",
    )
    language.add_argument(
        "--merge-layer",
        type=int,
        metavar="L",
        help="decoder layer at whose input tokens merge (default: the published one; without --decoder 0)",
    )
    language.add_argument(
        "--chunk", type=int, metavar="R", help=f"rows of a prompt a call of the decoder (default: {CHUNK})"
    )
    language.add_argument(
        "--text-tokens",
        type=int,
        metavar="N",
        help=f"most tokens of prompt, question and answer together (default: {TEXT} and {TEXT_A_FRAME} a frame)",
    )
    language.add_argument(
        "--group-layers", type=int, metavar="N", help="most layers in one graph (default: what 3 GB of weights hold)"
    )


def execute(options: argparse.Namespace) -> None:
    """Plan, run, and show the closing table."""
    from sttm_export.contracts.graph import INT8
    from sttm_export.terminal import Steps
    from sttm_export.workflows.estimate import check_room
    from sttm_export.workflows.plan import check_plan

    plan = make_plan(options)
    check_plan(plan)
    if options.dry_run:
        from sttm_export.commands.dry_run import print_estimate

        print_estimate(plan)
        return
    check_room(plan)
    from sttm_export.commands.tables import print_bundle
    from sttm_export.workflows.export import run_export

    each = 1 + bool(plan.validation_frames)
    int8 = (plan.recipe.precision == INT8) * each
    steps = Steps(2 + bool(plan.recipe.decoding) + each * len(plan.parts) + int8 + plan.engines)
    bundle = run_export(plan, steps)
    print_bundle(bundle)


def make_plan(options: argparse.Namespace):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Turn options into an `ExportPlan`; every value is checked here or by `check_plan`."""
    from sttm_export.contracts.calibration import given_calibration
    from sttm_export.contracts.graph import INT8
    from sttm_export.contracts.merge import MergeSpec
    from sttm_export.contracts.recipe import Recipe
    from sttm_export.families.registry import load_model
    from sttm_export.workflows.plan import ExportPlan, default_output, pick_targets
    from sttm_export.workflows.thresholds import pick_thresholds

    model = load_model(options.model)
    merge = MergeSpec(
        frames=steps_of(options.frames, options.budget, model),
        height=model.grid.height,
        width=model.grid.width,
        channels=model.channels,
        budget=options.budget,
        policy=options.policy,
        root_level=model.merging.root_level if options.root_level is None else options.root_level,
        weighted_avg=options.weighted_avg,
        head_dim=options.head_dim,
    )
    if options.no_validation and (options.clip or options.validation_frames is not None):
        raise UserError("--no-validation and --clip or --validation-frames contradict each other; leave one out.")
    if options.validation_frames == 0:
        raise UserError("--validation-frames 0 would check nothing; give 1 or more, or say --no-validation.")
    if options.policy == "budget" and options.temporal_threshold is not None:
        raise UserError(
            "--temporal-threshold does nothing with --policy budget, which solves it for every clip; leave it out, or "
            "give --policy threshold."
        )
    if options.int8_layers is not None and options.precision != INT8:
        raise UserError("--int8-layers chooses the layers of --precision int8; give that, or leave --int8-layers out.")
    wanted = min(options.frames, 32) if options.validation_frames is None else options.validation_frames
    decoding = _decoding(options, model)
    calibration = given_calibration(options.calibration) if options.calibration else None
    given = options.spatial_threshold, options.temporal_threshold
    layer = decoding.merge_layer if decoding else 0
    thresholds = pick_thresholds(model, merge, layer, *given, calibration)
    return ExportPlan(
        recipe=Recipe(model, merge, thresholds, options.precision, options.accumulate, options.batch, decoding),
        weights=options.weights,
        random_seed=options.random_weights,
        tower_weights=options.tower_weights,
        targets=pick_targets(options.target or ["rtx"], options.compute_capability, options.precision, decoding),
        capabilities=tuple(options.compute_capability),
        engines=not options.no_engines,
        clip=options.clip,
        validation_frames=0 if options.no_validation else wanted,
        output=options.output or default_output(model, options.budget, options.frames, options.precision, decoding),
        force=options.force,
        calibration=calibration,
        int8_layers=options.int8_layers or "auto",
    )


def _decoding(options: argparse.Namespace, model: ModelSpec) -> Decoding | None:
    """What `--decoder` and the options beside it ask for; those mean nothing without it."""
    from sttm_export.workflows.plan import pick_decoding

    given = {
        "--decoder-precision": options.decoder_precision,
        "--merge-layer": options.merge_layer,
        "--chunk": options.chunk,
        "--text-tokens": options.text_tokens,
        "--group-layers": options.group_layers,
    }
    asked = [name for name, value in given.items() if value is not None]
    if not options.decoder:
        if asked and not (asked == ["--merge-layer"] and options.merge_layer == 0):
            raise UserError(
                f"{asked[0]} is about the language model, which is not exported without --decoder; give --decoder, or "
                f"leave {asked[0]} out."
            )
        return None
    text = options.text_tokens if options.text_tokens is not None else TEXT + TEXT_A_FRAME * options.frames
    chunk = CHUNK if options.chunk is None else options.chunk
    layers = options.merge_layer, options.group_layers
    return pick_decoding(model, options.precision, *layers, chunk, text, options.decoder_precision)


def steps_of(frames: int, budget: float, model: ModelSpec) -> int:
    """T of the token merger: a model may make one grid of tokens of several frames."""
    steps, rest = divmod(frames, model.frames_per_step)
    if rest:
        raise UserError(
            f"--frames {frames} is no multiple of the {model.frames_per_step} frames that make a step of "
            f"{model.title}; give {frames - rest} or {frames - rest + model.frames_per_step}."
        )
    need = math.ceil(1.0 / budget - 1e-9) if 0.0 < budget <= 1.0 else 0
    if model.frames_per_step > 1 and steps < need:
        raise UserError(
            f"--frames {frames} are {steps} steps of {model.title}, too few for a budget of "
            f"{budget:g}; give --frames {need * model.frames_per_step} or more, or a larger --budget."
        )
    return int(steps)
