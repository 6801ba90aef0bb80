"""Options of the verbs that look at a video."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sttm_export.bundle.opened import Bundle


def add_viewing(parser: argparse.ArgumentParser) -> None:
    """Declare how a video is looked at and what runs the graphs."""
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


def open_to_view(options: argparse.Namespace, beside: Sequence[str] = ()) -> Bundle:
    """Open the bundle that is run; see `open_to_run`.

    Args:
        options: that name the bundle.
        beside: files that are read beside graphs and engines.
    """
    from sttm_export.bundle.opened import open_to_run

    return open_to_run(options.bundle, beside)


def viewing_values(options: argparse.Namespace) -> dict[str, Any]:
    """Their values, by the fields of `workflows.viewing.Viewing`."""
    return {
        "fps": options.fps,
        "spatial": options.spatial_threshold,
        "temporal": options.temporal_threshold,
        "provider": options.provider,
        "engine": options.engine,
        "target": options.target,
        "cuda_graph": options.cuda_graph,
    }
