"""`sttm-export calibrate --model … --clips …`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sttm_export.commands.values import path_value, text_value
from sttm_export.commands.weights import add_weights

if TYPE_CHECKING:
    from sttm_export.calibration.request import Request
    from sttm_export.calibration.run import Outcome
    from sttm_export.contracts.calibration import ThresholdChoice
    from sttm_export.contracts.decoding import Decoding
    from sttm_export.contracts.model import ModelSpec

BUDGETS = (0.5, 0.3)
HELP = (
    "Measure clips, and write what an export takes with --calibration: ranges of activations, and for each budget the "
    "pair of thresholds that keeps most of the features."
)
MORE = (
    "A frame of a 7B's encoder takes about 10 s of one core, the process 3.4 GiB of memory at T = 8. Finished clips "
    "are kept in OUTPUT.partial until the file stands: the same command goes on after whatever ended it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--model", type=text_value, required=True, metavar="NAME", help="a name of `sttm-export models`, or a TOML file"
    )
    parser.add_argument(
        "--clips",
        type=path_value,
        nargs="*",
        action="extend",
        default=[],
        metavar="PATH",
        help="repeatable, required: videos, directories (with all videos in and below them), and .txt lists (a path a "
        "line, relative to the list, # before comments)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        action="append",
        metavar="F",
        help="repeatable: share of the visual tokens to keep (default: 0.5 and 0.3)",
    )
    parser.add_argument(
        "--frames", type=int, default=32, metavar="T", help="as in the export: most frames of a clip (default: 32)"
    )
    parser.add_argument(
        "--fps", type=float, metavar="F", help="frames a second to sample (default: as the model was evaluated)"
    )
    parser.add_argument(
        "--merge-layer",
        type=int,
        default=0,
        metavar="L",
        help="as in the export: decoder layer at whose input tokens merge; those below are run as well (default: 0)",
    )
    add_weights(parser)
    parser.add_argument("--output", type=path_value, metavar="FILE", help="default: MODEL-calibration.json")
    parser.add_argument(
        "--force", action="store_true", help="replace a calibration, and finished clips of one with other options"
    )


def execute(options: argparse.Namespace) -> None:
    """Calibrate, and show what was chosen."""
    from sttm_export.calibration.run import STEPS, run_calibration
    from sttm_export.terminal import Steps

    request = make_request(options)
    _print(request, run_calibration(request, Steps(STEPS)))


def make_request(options: argparse.Namespace) -> Request:
    """Turn options into a request; the rest is checked by `run_calibration`."""
    from sttm_export.calibration.request import Request
    from sttm_export.commands.export import steps_of
    from sttm_export.families.registry import load_model

    model, budgets = load_model(options.model), tuple(options.budget or BUDGETS)
    steps = min(steps_of(options.frames, budget, model) for budget in budgets)
    return Request(
        model=model,
        weights=options.weights,
        random_seed=options.random_weights,
        tower_weights=options.tower_weights,
        clips=tuple(options.clips),
        budgets=budgets,
        steps=steps,
        fps=options.fps,
        decoding=_decoding(options, model),
        output=options.output or Path(f"{model.name}-calibration.json"),
        force=options.force,
    )


def _decoding(options: argparse.Namespace, model: ModelSpec) -> Decoding | None:
    """The layers below the merge layer, in groups and chunks as an export has them; none at layer 0."""
    from sttm_export.commands.export import CHUNK, TEXT, TEXT_A_FRAME
    from sttm_export.workflows.plan import pick_decoding

    if options.merge_layer == 0:
        return None
    return pick_decoding(model, "fp32", options.merge_layer, None, CHUNK, TEXT + TEXT_A_FRAME * options.frames)


def _print(request: Request, outcome: Outcome) -> None:
    from sttm_export.commands.layout import print_facts, print_table
    from sttm_export.contracts.model import counted
    from sttm_export.terminal import table_console

    console, made = table_console(), outcome.calibration
    frames = sum(clip.frames for clip in made.clips)
    failed = f"; {counted(len(outcome.failed), 'clip')} FAILED" if outcome.failed else ""
    facts = [
        ("clips", f"{len(made.clips)}, {counted(frames, 'frame')}{failed}"),
        ("ranges", f"of {counted(len(made.points), 'tensor')}"),
        ("merged at", f"the input of decoder layer {request.recipe.merge_layer}"),
    ]
    print_facts(console, f"Calibration {request.output}", facts)
    header = ("budget", "T", "spatial", "temporal", "distortion", "published", "its distortion")
    print_table(console, "Thresholds", header, [_row(choice) for choice in made.thresholds])
    print(f"{request.output}: give it to an export as --calibration")


def _row(choice: ThresholdChoice) -> tuple[str, ...]:
    kept = [f"{float(value):.4f}" for value in (choice.distortion, choice.published_distortion)]
    pair = f"{choice.spatial:g}", f"{choice.temporal:.4f}"
    return f"{choice.budget:g}", str(choice.frames), *pair, kept[0], f"{choice.published_spatial:g}", kept[1]
