"""The device kit: `bash build.sh` in a bundle's `device/` runs this, with the sources that lie beside it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sttm_export.bundle.opened import open_bundle, verify_manifest
from sttm_export.engines.api import BuildOptions
from sttm_export.engines.build import check_options
from sttm_export.errors import UserError
from sttm_export.kit.checks import own_bundle
from sttm_export.kit.flow import Request, run_kit
from sttm_export.kit.report import READABLE
from sttm_export.program import run_program

_MOST_RUNS = 1_000_000
_EPILOG = (
    "Exit codes: 0 the engines are in engines/<target>/ and agree with the reference (with --check: machine and bundle "
    "will do); 1 a build failed or an engine departs, see rejected/<target>/report.md; 2 machine, bundle or options "
    "are not as they must be, nothing was written; 130 interrupted, nothing was left."
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the kit's options."""
    parser = argparse.ArgumentParser(
        prog="build.sh",
        description="Check this machine, build the engines of this bundle, run them on the packed fixtures, and keep "
        "them if they agree with the reference.",
        epilog=_EPILOG,
    )
    parser.add_argument("--target", metavar="NAME", help="what to build for (default: what this machine is)")
    parser.add_argument("--check", action="store_true", help="check machine and bundle, build nothing")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="most scratch memory that a kernel may use")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="timed runs of each engine (default: 20)")
    parser.add_argument("--force", action="store_true", help="build again where engines are there already")
    parser.add_argument("--ignore-memory", action="store_true", help="try although the memory estimate says no")
    return parser


def main(argv: Sequence[str] | None = None, bundle: Path | None = None) -> int:
    """Run the kit.

    Args:
        argv: options; None for the process's own.
        bundle: its directory; None for the one this file lies in.

    Returns:
        The exit code, as the help lists them.
    """
    return run_program(
        "build.sh",
        lambda: _run(build_parser().parse_args(argv), bundle or own_bundle(__file__, "build.sh")),
        no_memory="close other programs",
        no_disk="free some space",
    )


def _run(options: argparse.Namespace, directory: Path) -> None:
    if not 1 <= options.runs <= _MOST_RUNS:
        raise UserError(f"--runs {options.runs} is not possible; give 1 to {_MOST_RUNS}.")
    check_options(BuildOptions(options.workspace))
    verify_manifest(directory)
    request = Request(
        target=options.target,
        check_only=options.check,
        workspace_mib=options.workspace,
        force=options.force,
        ignore_memory=options.ignore_memory,
        runs=options.runs,
    )
    folder = run_kit(open_bundle(directory, verify=False), request, _say)
    if folder is None:
        _say("This machine and bundle will do; run build.sh without --check to build.")
    else:
        _say(f"Passed: the engines are in {folder}, the report is {folder / READABLE}.")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
