"""Build options on TensorRT's configuration object, and what it says of them afterwards."""

from __future__ import annotations

from typing import Any

from sttm_export.engines.options import BuildOptions

MIB = 1 << 20


def set_options(module: Any, config: Any, options: BuildOptions) -> None:
    """Put options on an `IBuilderConfig`; the timing cache is attached by `timing_cache`."""
    if hasattr(module, "ProfilingVerbosity"):
        # So that the inspector names kernels (`layers.py`).
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level


def read_options(module: Any, config: Any) -> dict[str, Any]:
    """Return what the configuration holds: what TensorRT took, not what it was asked."""
    tf32 = getattr(module.BuilderFlag, "TF32", None)
    return {
        "strongly_typed": True,
        "tf32": tf32 is not None and bool(config.get_flag(tf32)),
        "optimization_level": config.builder_optimization_level,
        "workspace_mib": config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE) // MIB,
    }
