"""What a user may ask of a builder."""

from __future__ import annotations

from dataclasses import dataclass

from sttm_export.errors import UserError

LARGEST_WORKSPACE = 2**24
"""MiB: 16 TiB, more than any GPU has."""
OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. Types and TF32 are no options: strongly typed, without TF32, always."""

    # Most scratch memory a kernel may use, in MiB; None takes what a build leaves where CPU and GPU share their memory,
    # elsewhere TensorRT's default, all of the GPU's.
    workspace_mib: int | None = None
    # 0 to 5; None leaves TensorRT's default, 3.
    optimization_level: int | None = None


def check_options(options: BuildOptions) -> None:
    """Refuse values that are not possible.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    workspace, level = options.workspace_mib, options.optimization_level
    if workspace is not None and not 1 <= workspace <= LARGEST_WORKSPACE:
        raise UserError(
            f"--workspace {workspace} is not possible; give the builder's scratch memory in MiB, 1 to "
            f"{LARGEST_WORKSPACE}."
        )
    # TensorRT takes a higher level for 5, without a word.
    if level is not None and level not in OPTIMIZATION_LEVELS:
        raise UserError(f"Optimization level {level} is not possible; give one from 0 (fast to build) to 5.")
