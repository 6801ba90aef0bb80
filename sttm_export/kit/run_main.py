"""Frames in, merged tokens out, on the device: `bash run.sh` in the `device/` of a bundle runs this."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from sttm_export.bundle.opened import open_bundle, verify_manifest
from sttm_export.errors import UserError, first_line
from sttm_export.kit.checks import own_bundle
from sttm_export.program import run_program

_EPILOG = (
    "Exit codes: 0 the frames ended and every window is written; 2 machine, bundle, options or frames are not as they "
    "must be; 130 interrupted, windows before that are whole; 141 nobody reads the output any more."
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        prog="run.sh",
        description="Run the engines of this bundle on raw frames, and write the merged tokens of window after window.",
        epilog=_EPILOG,
    )
    frames = parser.add_argument_group("frames")
    frames.add_argument("--frames", required=True, metavar="-|FILE", help="raw frames: - for the pipe, or a file")
    frames.add_argument("--size", required=True, metavar="WxH", help="of each frame, such as 1920x1080")
    frames.add_argument(
        "--rate", required=True, metavar="F", help="frames a second that come, such as 30 or 30000/1001"
    )
    help_format = "ffmpeg's rgb24, bgr24, rgba, bgra, or GStreamer's RGB, BGR, RGBA, BGRx (default: rgb24)"
    frames.add_argument("--pixel-format", default="rgb24", metavar="NAME", help=help_format)
    help_live = "they come from a camera: who writes is not made to wait, and frames that come too fast are dropped"
    frames.add_argument("--live", action="store_true", help=help_live)
    frames.add_argument("--fps", type=float, metavar="F", help="frames a second to look at (default: the model's)")
    windows = parser.add_argument_group("windows")
    windows.add_argument("--window", type=int, metavar="N", help="frames of a window at most (default: what is merged)")
    windows.add_argument("--every", type=int, metavar="N", help="frames from window to window (default: the window's)")
    windows.add_argument("--windows", type=int, metavar="N", help="end after so many (default: with the frames)")
    help_still = "grey levels by which a still frame may differ from the one it repeats, or off (default: 0)"
    windows.add_argument("--still-tolerance", default="0", metavar="N", help=help_still)
    windows.add_argument("--spatial-threshold", type=float, metavar="F", help="default: the bundle's")
    help_temporal = "policy threshold only; default: the bundle's"
    windows.add_argument("--temporal-threshold", type=float, metavar="F", help=help_temporal)
    windows.add_argument("--queue", type=int, default=8, metavar="N", help="frames that may wait (default: 8)")
    output = parser.add_argument_group("output and engines")
    help_output = "a directory for a file a window, - for a stream on a pipe, or one file that holds the newest window"
    output.add_argument("--output", required=True, metavar="DIR|-|FILE.npz", help=help_output)
    output.add_argument("--keep", type=int, metavar="N", help="newest windows that a directory keeps (default: all)")
    output.add_argument("--target", metavar="NAME", help="engines of this target (default: the first that run here)")
    output.add_argument("--cuda-graph", action="store_true", help="launch each engine as one CUDA graph")
    return parser


def main(argv: Sequence[str] | None = None, bundle: Path | None = None) -> int:
    """Run the program.

    Args:
        argv: options; None for the process's own.
        bundle: its directory; None for the one this file lies in.

    Returns:
        The exit code, as the help lists them.
    """
    return run_program(
        "run.sh",
        lambda: _run(build_parser().parse_args(argv), bundle or own_bundle(__file__, "run.sh")),
        no_memory="close other programs, or send smaller frames",
        no_disk="free some space, or keep fewer windows with --keep",
    )


def _run(options: argparse.Namespace, directory: Path) -> None:
    _need_numpy()
    from sttm_export.kit.stream import Request, run_stream
    from sttm_export.streams.checks import still_levels
    from sttm_export.streams.output import PIPE

    request = Request(
        frames=options.frames,
        size=options.size,
        rate=_rate(options.rate),
        pixel_format=options.pixel_format,
        live=options.live,
        fps=options.fps,
        window=options.window,
        every=options.every,
        windows=options.windows,
        queue=options.queue,
        still_tolerance=still_levels(options.still_tolerance),
        spatial=options.spatial_threshold,
        temporal=options.temporal_threshold,
        output=options.output,
        keep=options.keep,
        target=options.target,
        cuda_graph=options.cuda_graph,
    )
    verify_manifest(directory)
    said = run_stream(open_bundle(directory, verify=False), request)
    print(said, file=sys.stderr if request.output == PIPE else sys.stdout, flush=True)


def _need_numpy() -> None:
    """Say that it is missing, before a module of ours trips over it."""
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"NumPy cannot be imported ({first_line(error)}); 1.21 or later is needed: sudo apt install python3-numpy."
        ) from error


def _rate(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(f"--rate {text} is no rate; give frames a second, such as 30 or 30000/1001.") from error


if __name__ == "__main__":
    sys.exit(main())
