"""`sttm-export bench BUNDLE`, and `sttm-export bench --compare FILE.json FILE.json`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sttm_export.commands.values import path_value
from sttm_export.commands.viewing import add_viewing, open_to_view, viewing_values
from sttm_export.errors import UserError

if TYPE_CHECKING:
    from sttm_export.timing.request import Request

HELP = "Time a bundle where it runs, against no merging in the same run; or compare two results."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, nargs="?", help="directory that sttm-export wrote")
    help_video = "measure on frames of this video (default: those of the bundle's fixtures)"
    parser.add_argument("--video", type=path_value, metavar="FILE", help=help_video)
    parser.add_argument("--runs", type=int, metavar="N", help="rounds of each group at most (default: 20)")
    parser.add_argument("--seconds", type=float, metavar="S", help="for the rounds of each group (default: 30)")
    parser.add_argument("--threads", type=int, metavar="N", help="of ONNX Runtime (default: its own choice)")
    parser.add_argument("--output", type=path_value, metavar="FILE.json", help="default: bench.json")
    parser.add_argument("--plot", type=path_value, metavar="FILE.svg", help="default: the output with .svg")
    add_viewing(parser)
    help_compare = "compare two results, the second with the first, instead of measuring"
    parser.add_argument("--compare", type=path_value, nargs=2, metavar="FILE.json", help=help_compare)
    help_fail = "end with 1 where the second is slower by more, beyond noise (with --compare)"
    parser.add_argument("--fail-above", type=float, metavar="PERCENT", help=help_fail)


def execute(options: argparse.Namespace) -> None:
    """Measure or compare."""
    if options.compare is None:
        _measure(options)
    else:
        _compare(options)


def _measure(options: argparse.Namespace) -> None:
    from sttm_export.bundle.opened import open_bundle
    from sttm_export.commands.bench_tables import print_result
    from sttm_export.terminal import Steps, table_console
    from sttm_export.timing.request import check_request
    from sttm_export.timing.run import bench_bundle, count_steps

    if options.bundle is None:
        raise UserError("There is nothing to measure; give a bundle, or --compare with two results.")
    if options.fail_above is not None:
        raise UserError("--fail-above is about two results; give --compare with them.")
    request = _request(options)
    check_request(request)
    # Not verified yet: only how much there is to do is read of it.
    steps = Steps(count_steps(open_bundle(options.bundle, verify=False), request))
    with steps.step("Check the bundle"):
        bundle = open_to_view(options)
    steps.warn(bundle.rejected())
    result = bench_bundle(bundle, request, steps)
    print_result(result, table_console())
    print(request.output, request.plot, sep="\n")


def _request(options: argparse.Namespace) -> Request:
    from sttm_export.timing.request import Request

    output = options.output or Path("bench.json")
    given = {name: getattr(options, name) for name in ("runs", "seconds", "threads")}
    return Request(
        output=output,
        plot=options.plot or output.with_suffix(".svg"),
        video=options.video,
        **{name: value for name, value in given.items() if value is not None},
        **viewing_values(options),
    )


_MEASURING = (
    *("video", "runs", "seconds", "threads", "output", "plot", "fps", "spatial_threshold", "temporal_threshold"),
    *("provider", "engine", "target", "cuda_graph"),
)


def _compare(options: argparse.Namespace) -> None:
    from sttm_export.commands.bench_tables import print_comparison
    from sttm_export.terminal import table_console
    from sttm_export.timing.compare import check_slower, compare
    from sttm_export.timing.result import read_result

    given = [name for name in _MEASURING if getattr(options, name) not in {None, False}]
    if options.bundle is not None or given:
        what = f"--{given[0].replace('_', '-')}" if given else str(options.bundle)
        raise UserError(f"--compare measures nothing, so {what} does nothing; leave it out.")
    if options.fail_above is not None and not options.fail_above >= 0:
        raise UserError(f"--fail-above {options.fail_above:g} is not possible; give percent, 0 or more.")
    first, second = (read_result(path) for path in options.compare)
    found = compare(first, second)
    print_comparison(found, table_console())
    if options.fail_above is not None:
        check_slower(found, options.fail_above)
