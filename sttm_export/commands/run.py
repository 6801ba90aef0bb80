"""`sttm-export run BUNDLE --video FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sttm_export.commands.values import path_value

HELP = "Run a bundle on a video, with ONNX Runtime or its engines: merged tokens as .npz, and a picture of them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", type=path_value, help="directory that sttm-export wrote")
    parser.add_argument("--video", type=path_value, required=True, metavar="FILE", help="video to merge the tokens of")
    parser.add_argument(
        "--output", type=path_value, default=Path("tokens.npz"), metavar="FILE", help="default: tokens.npz"
    )
    parser.add_argument("--picture", type=path_value, metavar="FILE", help="default: the output with .png")
    parser.add_argument("--fps", type=float, metavar="F", help="frames a second to sample (default: the model's)")
    parser.add_argument("--spatial-threshold", type=float, metavar="F", help="default: the bundle's")
    parser.add_argument(
        "--temporal-threshold", type=float, metavar="F", help="policy threshold only; default: the bundle's"
    )
    help_provider = "cpu, cuda or tensorrt of ONNX Runtime, or a provider's full name (default: cpu)"
    parser.add_argument("--provider", metavar="P", help=help_provider)
    parser.add_argument("--engine", action="store_true", help="run the bundle's TensorRT engines, not ONNX Runtime")
    parser.add_argument("--target", metavar="NAME", help="engines of this target (default: the first that run here)")
    parser.add_argument("--cuda-graph", action="store_true", help="launch each engine as one CUDA graph")


def execute(options: argparse.Namespace) -> None:
    """Decode, encode, merge, write."""
    from sttm_export.bundle.opened import open_bundle, verify_manifest
    from sttm_export.errors import UserError
    from sttm_export.terminal import Steps
    from sttm_export.workflows.run import Request, run_bundle

    if options.output.name in {"", ".."}:
        raise UserError(f"--output {options.output} is a directory; give the name of a file.")
    request = Request(
        video=options.video,
        output=options.output,
        picture=options.picture or options.output.with_suffix(".png"),
        fps=options.fps,
        spatial=options.spatial_threshold,
        temporal=options.temporal_threshold,
        provider=options.provider,
        engine=options.engine,
        target=options.target,
        cuda_graph=options.cuda_graph,
    )
    steps = Steps(5)
    with steps.step("Check the bundle"):
        if options.engine:
            # An engine is held to its own record where it is loaded; to hash graphs as well, which it does not read,
            # would take gigabytes at each start.
            verify_manifest(options.bundle)
        bundle = open_bundle(options.bundle, verify=not options.engine)
    steps.warn(bundle.rejected())
    merged = run_bundle(bundle, request, steps)
    print(
        f"{merged.num_tokens} tokens of {merged.assignment.size} cells ({merged.share:.1%}; budget "
        f"{merged.max_tokens}), thresholds {merged.thresholds[0]:.4f}, {merged.thresholds[1]:.4f} "
        f"(margins {merged.margins[0]:.1g}, {merged.margins[1]:.1g})"
        f"{'' if merged.converged else '; NOT CONVERGED'}\n{request.output}\n{request.picture}"
    )
