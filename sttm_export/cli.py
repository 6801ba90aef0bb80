"""The command line. `sttm-export --model …` exports; other verbs work on models and bundles.

Nothing heavy is imported until a verb runs, so that `--help` answers at once, on a device without PyTorch too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sttm_export import __version__
from sttm_export.commands import (
    ask,
    bench,
    build,
    calibrate,
    doctor,
    export,
    inspect,
    live,
    models,
    run,
    targets,
    validate,
)
from sttm_export.errors import UserError, did_you_mean
from sttm_export.program import run_program

VERBS = {
    "export": export,
    "calibrate": calibrate,
    "build": build,
    "models": models,
    "targets": targets,
    "doctor": doctor,
    "inspect": inspect,
    "validate": validate,
    "run": run,
    "live": live,
    "ask": ask,
    "bench": bench,
}


# What the extra `export` installs (pyproject.toml), by the names that are imported.
EXPORT_PACKAGES = frozenset({"huggingface_hub", "onnx", "onnx_ir", "onnxscript", "torch", "transformers"})


class _VerbParser(argparse.ArgumentParser):
    """Takes words without a dash before, between and behind options; argparse by itself wants them in one place."""

    _inside = False

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def,override]  # noqa: ANN001, ANN202
        """Parse; the call that is made of it from within is argparse's own."""
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="sttm-export",
        description="Export a video LLM's vision side with STTM token merging to static ONNX graphs and engines.",
        epilog="Without a verb, sttm-export exports: `sttm-export --model llava-video-7b --budget 0.5 …` is "
        "`sttm-export export …`; its options are listed by `sttm-export export --help`.",
    )
    parser.add_argument("--version", action="version", version=f"sttm-export {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_VerbParser)
    for name, module in VERBS.items():
        more = getattr(module, "MORE", None)
        sub = verbs.add_parser(name, help=module.HELP, description=module.HELP, epilog=more)
        module.add_arguments(sub)
        sub.set_defaults(execute=module.execute)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if all is well, 1 where a numeric check missed or some of many files failed, 2 for bad input, 130 when
        interrupted, 141 where nobody reads the output any more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program(
        "sttm-export",
        lambda: _execute(arguments),
        no_memory="close other programs, or give fewer --frames or a smaller --batch",
        no_disk="free some space or choose another --output",
    )


def _execute(arguments: list[str]) -> None:
    options = build_parser().parse_args(_with_verb(arguments))
    check_surroundings()
    try:
        options.execute(options)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXPORT_PACKAGES:
            raise
        raise UserError(
            f"`sttm-export {options.verb}` needs the package {package}, which is not installed: run pip install "
            "'sttm-export[export]'; running a bundle needs none of it."
        ) from error


def check_surroundings() -> None:
    """Refuse a working directory that is gone: every path that is given starts from it.

    Raises:
        UserError: it was removed.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UserError("The working directory is gone; change to one that exists and run again.") from error


def _with_verb(arguments: list[str]) -> list[str]:
    """Put `export` in front of options that come without a verb; an unknown verb gets the nearest one."""
    if not arguments:
        return ["--help"]
    first = arguments[0]
    if first.startswith("-"):
        return arguments if first in {"-h", "--help", "--version"} else ["export", *arguments]
    if first not in VERBS:
        raise UserError(f"Unknown verb '{first}'.{did_you_mean(first, VERBS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
