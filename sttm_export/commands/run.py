"""`sttm-export run BUNDLE --video FILE`, and `--videos` for many."""

from __future__ import annotations

import argparse
from pathlib import Path

from sttm_export.commands.values import path_value
from sttm_export.commands.viewing import add_viewing, open_to_view, viewing_values
from sttm_export.errors import Incomplete, UserError

HELP = (
    "Run a bundle on a video, with ONNX Runtime or its engines: merged tokens as .npz, and a picture of them. Or on "
    "many, with one load."
)
MORE = (
    "With --videos, a.mp4 gives OUTPUT/a.mp4.npz. Results that are finished are not made again; a video that cannot be "
    "read gets a line in OUTPUT/failed.jsonl and ends nothing, and the exit code is 1 then."
)
# Options that are about one video, and those that are about many.
_ONE, _MANY = ("picture", "overlay", "report"), ("shard", "pictures", "force", "threads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote")
    parser.add_argument("--video", type=path_value, metavar="FILE", help="video to merge the tokens of; or --videos")
    parser.add_argument(
        "--output",
        type=path_value,
        metavar="PATH",
        help="file, default: tokens.npz; with --videos the directory of the results, required",
    )
    parser.add_argument("--picture", type=path_value, metavar="FILE", help="default: the output with .png")
    parser.add_argument(
        "--overlay", type=path_value, metavar="FILE.mp4", help="a video of the frames with their tokens"
    )
    help_report = "a page with a player of them, similarities and fidelity"
    parser.add_argument("--report", type=path_value, metavar="FILE.html", help=help_report)
    _add_many(parser)
    add_viewing(parser)


def _add_many(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--videos",
        type=path_value,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="repeatable: videos, directories (with all videos in and below them), and .txt lists (a path a line, "
        "relative to the list, # before comments)",
    )
    parser.add_argument("--shard", metavar="I/N", help="with --videos: part I of N, told by names (default: 1/1)")
    parser.add_argument("--pictures", action="store_true", help="with --videos: a picture beside each result")
    parser.add_argument("--force", action="store_true", help="with --videos: replace results of other settings")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="with --videos: of ONNX Runtime within an operator (default: its own)"
    )


def execute(options: argparse.Namespace) -> None:
    """Decode, encode, merge, write."""
    if bool(options.videos) == (options.video is not None):
        raise UserError("run needs a video: give --video FILE, or --videos with a directory or list of many.")
    wrong = next(
        (name for name in (_ONE if options.videos else _MANY) if getattr(options, name) not in {None, False}), None
    )
    if wrong is not None:
        raise UserError(
            f"--{wrong} is about {'one video' if options.videos else 'many videos'}; give "
            f"{'--video FILE' if options.videos else '--videos'} with it, or leave it out."
        )
    if options.videos:
        _execute_many(options)
    else:
        _execute_one(options)


def _execute_one(options: argparse.Namespace) -> None:
    from sttm_export.terminal import Steps
    from sttm_export.workflows.run import Request, run_bundle

    output = options.output or Path("tokens.npz")
    if output.name in {"", ".."}:
        raise UserError(f"--output {output} is a directory; give the name of a file.")
    request = Request(
        video=options.video,
        output=output,
        picture=options.picture or output.with_suffix(".png"),
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


def _execute_many(options: argparse.Namespace) -> None:
    from sttm_export.corpora.failed import NAME
    from sttm_export.corpora.shard import Shard, read_shard
    from sttm_export.terminal import Steps
    from sttm_export.workflows.corpus import STEPS, Request, check_request, run_corpus

    if options.output is None:
        raise UserError("--videos needs a directory for the results; give --output DIR.")
    request = Request(
        videos=tuple(options.videos),
        output=options.output,
        shard=Shard() if options.shard is None else read_shard(options.shard),
        pictures=options.pictures,
        force=options.force,
        threads=0 if options.threads is None else options.threads,
        **viewing_values(options),
    )
    check_request(request)
    steps = Steps(STEPS)
    with steps.step("Check the bundle"):
        bundle = open_to_view(options)
    steps.warn(bundle.rejected())
    outcome = run_corpus(bundle, request, steps)
    print(f"{options.output}: {outcome}")
    if outcome.failed:
        raise Incomplete(
            f"{outcome.failed} of {outcome.failed + outcome.merged + outcome.finished} videos failed; "
            f"{options.output / NAME} says why, and the same command tries them again."
        )
