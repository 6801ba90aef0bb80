"""What a user may ask of a builder, and what a flavour of TensorRT cannot do, refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sttm_export.contracts.target import TargetSpec
from sttm_export.errors import UserError

LARGEST_WORKSPACE = 2**24
"""MiB: 16 TiB, more than any GPU has."""
OPTIMIZATION_LEVELS = range(6)
# Options that TensorRT-RTX 1.7 does not have, and why; each was tried (docs/tensorrt.md, section 1).
_NOT_IN_RTX = {
    "--timing-cache": "it times no kernels while it builds, they are compiled on the GPU that runs them, so there is "
    "nothing to keep",
    "--frozen-timing-cache": "it times no kernels while it builds, so there are no choices to freeze",
    "--version-compatible": "its packages lack the lean runtime that such an engine carries",
    "--strip-weights": "it asks for a GPU when it leaves weights out, and is here to build without one",
}


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. Types and TF32 are no options: strongly typed, without TF32, always.

    Attributes:
        workspace_mib: most scratch memory a kernel may use, in MiB; None takes what a
            build leaves where CPU and GPU share their memory, elsewhere TensorRT's default, all of the GPU's.
        version_compatible: the engine carries a lean runtime and runs with later TensorRT versions too.
        strip_weights: leave weights out of the engine; who loads it refits it from the ONNX graph.
        timing_cache: file of measured kernel times, read and, unless it is frozen, written; None keeps none.
        frozen_timing_cache: choose kernels from the cache alone, and fail where it does not hold one.
        optimization_level: 0 to 5; None leaves TensorRT's default, 3.
    """

    workspace_mib: int | None = None
    version_compatible: bool = False
    strip_weights: bool = False
    timing_cache: Path | None = None
    frozen_timing_cache: bool = False
    optimization_level: int | None = None


def check_options(options: BuildOptions, target: TargetSpec) -> None:
    """Refuse values that are not possible and options that the target's TensorRT does not have.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    _check_values(options)
    asked = {
        "--timing-cache": options.timing_cache is not None,
        "--frozen-timing-cache": options.frozen_timing_cache,
        "--version-compatible": options.version_compatible,
        "--strip-weights": options.strip_weights,
    }
    if target.flavour == "tensorrt-rtx":
        for name in (name for name, wanted in asked.items() if wanted):
            raise UserError(f"Target '{target.name}' has no {name}: {_NOT_IN_RTX[name]}; leave it out for this target.")
    if options.frozen_timing_cache and options.timing_cache is None:
        raise UserError("--frozen-timing-cache needs a cache to choose from; give it with --timing-cache FILE.")


def _check_values(options: BuildOptions) -> None:
    workspace, level = options.workspace_mib, options.optimization_level
    if workspace is not None and not 1 <= workspace <= LARGEST_WORKSPACE:
        raise UserError(
            f"--workspace {workspace} is not possible; give the builder's scratch memory in MiB, 1 to "
            f"{LARGEST_WORKSPACE}."
        )
    if level is not None and level not in OPTIMIZATION_LEVELS:
        raise UserError(f"Optimization level {level} is not possible; give one from 0 (fast to build) to 5.")
