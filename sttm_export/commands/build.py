"""`sttm-export build BUNDLE --target NAME`."""

from __future__ import annotations

import argparse

from sttm_export.commands.values import path_value

HELP = "Build engines for a bundle, with TensorRT on a machine with the GPU, or with TensorRT-RTX anywhere."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote")
    parser.add_argument(
        "--target", action="append", required=True, metavar="NAME", help="repeatable; see sttm-export targets"
    )
    parser.add_argument(
        "--compute-capability",
        action="append",
        default=[],
        metavar="SM",
        help="repeatable (default: sm86, sm89 for rtx, the GPU that is present elsewhere)",
    )
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="most scratch memory of the builder (default: all of the GPU's)"
    )
    parser.add_argument(
        "--optimization-level", type=int, metavar="N", help="0 (fast to build) to 5 (default: TensorRT's, 3)"
    )
    parser.add_argument("--force", action="store_true", help="replace engines of the same compute capabilities")


def execute(options: argparse.Namespace) -> None:
    """Check, build, show what was built, and say how to check it."""
    from sttm_export.bundle.opened import open_bundle
    from sttm_export.bundle.store import clear_engines, only_builder
    from sttm_export.contracts.target import find_target
    from sttm_export.engines.api import BuildOptions
    from sttm_export.terminal import Steps, table_console
    from sttm_export.workflows.build import Request, build_bundle, plan_build

    request = Request(
        targets=tuple(find_target(name) for name in dict.fromkeys(options.target)),
        capabilities=tuple(options.compute_capability),
        options=BuildOptions(options.workspace, options.optimization_level),
        force=options.force,
    )
    steps = Steps(1 + len(request.targets))
    with only_builder(options.bundle):
        with steps.step("Check bundle, targets and machine"):
            # Engines that are damaged are what --force may be for.
            bundle = open_bundle(options.bundle, engines=not options.force)
            for line in [line for target in request.targets for line in clear_engines(bundle.path, target.name)]:
                steps.say(line)
            requests = plan_build(bundle, request)
        steps.warn(bundle.rejected(engines=not options.force))
        records = build_bundle(bundle, requests, steps)
    from sttm_export.commands.tables import print_engines
    from sttm_export.engines.driver import gpu_capability

    print_engines(records, table_console())
    if gpu_capability() in {record.compute_capability for record in records}:
        print(f"Check them on this GPU: sttm-export validate {options.bundle} --engine")
    else:
        print("Not run: no GPU here is one that these engines were built for.")
