"""`sttm-export run BUNDLE --video FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sttm_export.commands.values import path_value
from sttm_export.commands.viewing import add_viewing, open_to_view, viewing_values

HELP = "Run a bundle on a video, with ONNX Runtime or its engines: merged tokens as .npz, and a picture of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote")
    parser.add_argument("--video", type=path_value, required=True, metavar="FILE", help="video to merge the tokens of")
    parser.add_argument(
        "--output", type=path_value, default=Path("tokens.npz"), metavar="FILE", help="default: tokens.npz"
    )
    parser.add_argument("--picture", type=path_value, metavar="FILE", help="default: the output with .png")
    parser.add_argument(
        "--overlay", type=path_value, metavar="FILE.mp4", help="a video of the frames with their tokens"
    )
    help_report = "a page with a player of them, similarities and fidelity"
    parser.add_argument("--report", type=path_value, metavar="FILE.html", help=help_report)
    add_viewing(parser)


def execute(options: argparse.Namespace) -> None:
    """Decode, encode, merge, write."""
    from sttm_export.errors import UserError
    from sttm_export.terminal import Steps
    from sttm_export.workflows.run import Request, run_bundle

    if options.output.name in {"", ".."}:
        raise UserError(f"--output {options.output} is a directory; give the name of a file.")
    request = Request(
        video=options.video,
        output=options.output,
        picture=options.picture or options.output.with_suffix(".png"),
        overlay=options.overlay,
        report=options.report,
        **viewing_values(options),
    )
    steps = Steps(5)
    with steps.step("Check the bundle"):
        bundle = open_to_view(options)
    steps.warn(bundle.rejected())
    merged = run_bundle(bundle, request, steps)
    written = [request.output, request.picture, request.overlay, request.report]
    print(
        f"{merged.num_tokens} tokens of {merged.assignment.size} cells ({merged.share:.1%}; budget "
        f"{merged.max_tokens}), thresholds {merged.thresholds[0]:.4f}, {merged.thresholds[1]:.4f} "
        f"(margins {merged.margins[0]:.1g}, {merged.margins[1]:.1g})"
        f"{'' if merged.converged else '; NOT CONVERGED'}",
        *(path for path in written if path),
        sep="\n",
    )
