"""`sttm-export validate BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Check a bundle again: files, then every stage on its fixtures or on a clip of yours."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=Path, help="directory that sttm-export wrote")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="fresh video for every stage (default: the fixtures)")
    parser.add_argument("--weights", metavar="DIR_OR_HUB_ID", help="the checkpoint again, for the reference on a clip")
    parser.add_argument("--tower-weights", metavar="DIR_OR_HUB_ID", help="the tower's own checkpoint, if it was given")


def execute(options: argparse.Namespace) -> None:
    """Verify, run the stages, print them; a miss is an error."""
    from sttm_export.bundle import open_bundle
    from sttm_export.commands.tables import stage_table
    from sttm_export.terminal import Steps, table_console
    from sttm_export.validating import validate_on_clip, validate_on_fixtures

    steps = Steps(2 if options.clip is None else 3)
    with steps.step("Check the files"):
        bundle = open_bundle(options.bundle)
    if options.clip is None:
        report = validate_on_fixtures(bundle, steps)
    else:
        report = validate_on_clip(bundle, options.clip, options.weights, options.tower_weights, steps)
    console = table_console()
    console.print(stage_table(report.to_json()))
    for finding in report.findings:
        console.print(f"finding: {finding}", markup=False)
    report.raise_on_miss()
    console.print("[bold green]Verdict: passed[/]")
