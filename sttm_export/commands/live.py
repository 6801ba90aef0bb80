"""`sttm-export live BUNDLE --source rtsp://… | /dev/video0 | FILE`."""

from __future__ import annotations

import argparse
import sys

from sttm_export.commands.values import path_value, text_value
from sttm_export.commands.viewing import add_viewing, open_to_view, viewing_values

HELP = "Follow a camera, a stream or a file: the merged tokens of a window that slides over its frames."
MORE = (
    "Every frame is encoded once; one whose pixels did not change takes over the features before it. A camera waits "
    "for nobody: where frames come faster than they are encoded, the oldest that waits is dropped whole and counted. A "
    "source that breaks off is opened again after 1, 2, 4, … 30 s. docs/live.md has all rules."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote")
    help_source = "rtsp://, http:// (MPEG-TS and others), tcp:// or udp:// address, /dev/video0, or a video file"
    parser.add_argument("--source", type=text_value, required=True, metavar="S", help=help_source)
    help_output = "a directory for a file a window, - for a stream on a pipe, or one file that holds the newest window"
    parser.add_argument("--output", type=text_value, required=True, metavar="DIR|-|FILE.npz", help=help_output)
    parser.add_argument("--window", type=int, metavar="N", help="frames of a window at most (default: what is merged)")
    parser.add_argument("--every", type=int, metavar="N", help="frames from window to window (default: the window's)")
    help_still = "grey levels by which a still frame may differ from the one it repeats, or off (default: 0)"
    parser.add_argument("--still-tolerance", default="0", metavar="N", help=help_still)
    parser.add_argument("--keep", type=int, metavar="N", help="newest windows that a directory keeps (default: all)")
    parser.add_argument("--windows", type=int, metavar="N", help="end after so many (default: with the source)")
    parser.add_argument("--queue", type=int, default=8, metavar="N", help="frames that may wait (default: 8)")
    help_timeout = "seconds without data after which a source has broken off (default: 5)"
    parser.add_argument("--timeout", type=float, default=5.0, metavar="F", help=help_timeout)
    help_retries = "tries in a row to open it again (default: no end); 0 ends where the source does"
    parser.add_argument("--retries", type=int, metavar="N", help=help_retries)
    help_transport = "how RTSP sends pictures: tcp or udp (default: tcp)"
    parser.add_argument("--transport", choices=("tcp", "udp"), default="tcp", help=help_transport)
    help_pace = "play a file at its own speed, as a camera that waits for nobody"
    parser.add_argument("--pace", action="store_true", help=help_pace)
    add_viewing(parser)


def execute(options: argparse.Namespace) -> None:
    """Load the graphs, and follow the source."""
    from sttm_export.streams.checks import still_levels
    from sttm_export.streams.output import PIPE
    from sttm_export.terminal import Steps
    from sttm_export.workflows.live import Request, follow_source

    request = Request(
        source=options.source,
        output=options.output,
        window=options.window,
        every=options.every,
        still_tolerance=still_levels(options.still_tolerance),
        keep=options.keep,
        windows=options.windows,
        queue=options.queue,
        timeout=options.timeout,
        retries=options.retries,
        transport=options.transport,
        pace=options.pace,
        **viewing_values(options),
    )
    steps = Steps(2)
    with steps.step("Check the bundle"):
        bundle = open_to_view(options)
    steps.warn(bundle.rejected())
    summary = follow_source(bundle, request, steps)
    to_pipe = request.output == PIPE
    print(summary, *([] if to_pipe else [request.output]), sep="\n", file=sys.stderr if to_pipe else sys.stdout)
