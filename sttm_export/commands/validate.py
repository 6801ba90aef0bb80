"""`sttm-export validate BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sttm_export.commands.values import path_value, text_value
from sttm_export.errors import UserError

if TYPE_CHECKING:
    from sttm_export.bundle.opened import Bundle
    from sttm_export.validation.results import ValidationReport

HELP = "Check a bundle again: files, then every stage on its fixtures or on a clip of yours."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote")
    parser.add_argument(
        "--clip", type=path_value, metavar="FILE", help="fresh video for every stage (default: the fixtures)"
    )
    parser.add_argument(
        "--weights", type=text_value, metavar="DIR_OR_HUB_ID", help="the checkpoint again, for the reference on a clip"
    )
    parser.add_argument(
        "--tower-weights", type=text_value, metavar="DIR_OR_HUB_ID", help="the tower's own checkpoint, if it was given"
    )
    help_bisect = "find the first tensor that leaves its band: a name such as vision_encoder, or all (default: all)"
    parser.add_argument("--bisect", nargs="?", const="all", metavar="GRAPH", help=help_bisect)
    parser.add_argument("--engine", action="store_true", help="run the bundle's TensorRT engines too, on the fixtures")
    parser.add_argument("--target", metavar="NAME", help="engines of this target (default: the first that run here)")
    parser.add_argument("--provider", metavar="P", help="provider of ONNX Runtime for --bisect (default: cpu)")
    parser.add_argument("--json", type=path_value, metavar="FILE", help="write what --bisect found as JSON too")


def execute(options: argparse.Namespace) -> None:
    """Verify, run the stages, print them; a miss is an error."""
    from sttm_export.bundle.opened import open_bundle
    from sttm_export.commands.tables import print_stages
    from sttm_export.engines.compatibility import engines_here
    from sttm_export.terminal import Steps, table_console
    from sttm_export.workflows.validate import validate_engines, validate_on_clip, validate_on_fixtures

    _check_engine_options(options)
    if options.bisect is not None:
        _bisect(options)
        return
    if options.json is not None:
        raise UserError("--json writes what --bisect finds; give both, or leave it out.")
    steps = Steps(3 if options.clip is not None or options.engine else 2)
    with steps.step("Check the files"):
        bundle = open_bundle(options.bundle)
        # First of all: that no engine runs here should not come after half a minute of work.
        selection = engines_here(bundle, options.target) if options.engine else None
    steps.warn(bundle.rejected())
    if options.clip is None:
        report = validate_on_fixtures(bundle, steps)
        if selection is not None:
            report += validate_engines(bundle, selection, steps)
    else:
        report = validate_on_clip(bundle, options.clip, options.weights, options.tower_weights, steps)
    console = table_console()
    print_stages(report.to_json(), console)
    report.raise_on_miss(_evidence(bundle, report, options))
    console.print("Verdict: passed", style="bold green")


def _evidence(bundle: Bundle, report: ValidationReport, options: argparse.Namespace) -> str:
    """The last line of a miss: what stands above, and the command that finds the cause."""
    from sttm_export.bundle.opened import bisect_command

    miss = report.first_miss
    if miss is None:
        return ""
    given = bundle.weights.identifier if not bundle.weights.is_random else None
    command = bisect_command(
        bundle.path,
        bundle.graph(miss.graph),
        weights=options.weights or given,
        tower_weights=options.tower_weights,
        engine=miss.stage.startswith("tensorrt"),
    )
    return f"Every stage stands in the table above; to find the cause: {command}"


def _check_engine_options(options: argparse.Namespace) -> None:
    if options.target is not None and not options.engine:
        raise UserError("--target is about engines; give --engine with it.")
    if options.engine and options.clip is not None:
        raise UserError("--engine runs on the bundle's fixtures; leave --clip out.")
    if options.provider is not None and (options.engine or options.bisect is None):
        raise UserError("--provider is about --bisect with ONNX Runtime; leave it out, or --engine.")


def _bisect(options: argparse.Namespace) -> None:
    """Search the graphs, print what was found, write it; a tensor out of its band is an error."""
    import json

    from sttm_export.bundle.opened import open_bundle
    from sttm_export.commands.drift_table import print_drift
    from sttm_export.drift.search import bisect_graph, chosen_graphs, searchable
    from sttm_export.drift.sessions import engine_factory, ort_factory
    from sttm_export.files.whole import write_text_whole
    from sttm_export.terminal import Steps, table_console

    if options.clip is not None:
        raise UserError("--bisect runs on the bundle's fixtures; leave --clip out.")
    if options.json is not None:
        _check_json(options)
    steps, console = Steps(1), table_console()
    with steps.step("Check the files"):
        bundle = open_bundle(options.bundle)
    graphs = searchable(bundle, chosen_graphs(bundle, options.bisect), steps)
    steps.total += 2 * len(graphs)
    factory = engine_factory(bundle, options.target) if options.engine else ort_factory(options.provider or "cpu")
    weights = {"weights": options.weights, "tower_weights": options.tower_weights}
    reports = [bisect_graph(bundle, graph, steps, **weights, factory=factory) for graph in graphs]
    for report in reports:
        print_drift(report, console)
    if options.json is not None:
        rows = json.dumps([report.to_json() for report in reports], indent=1, ensure_ascii=False)
        write_text_whole(options.json, rows + "\n")
    for report in reports:
        report.raise_on_drift()


def _check_json(options: argparse.Namespace) -> None:
    from sttm_export.bundle.opened import bundle_around
    from sttm_export.files.whole import check_not_input, check_writable

    check_writable(options.json, "--json")
    checkpoints = (options.weights, options.tower_weights)
    check_not_input(options.json, "--json", [("the checkpoint", Path(name)) for name in checkpoints if name])
    around = bundle_around(options.json)
    if around is not None:
        raise UserError(f"--json {options.json} would lie in the bundle {around}, which holds nothing else.")
