"""Build options on TensorRT's configuration object, and what it says of them afterwards."""

from __future__ import annotations

from typing import Any

from sttm_export.engines.faults import EngineError
from sttm_export.engines.options import BuildOptions

MIB = 1 << 20


def set_options(module: Any, config: Any, options: BuildOptions) -> None:
    """Put options on an `IBuilderConfig`; the timing cache is attached by `timing_cache`.

    A stripped engine gets REFIT_IDENTICAL, not REFIT: the weights that come back are those of the same graph, and REFIT
    gives up the optimisations that look at weights (and was found to drop biases, TensorRT 11.3 release notes).

    Raises:
        EngineError: this TensorRT is too old for an option.
    """
    if hasattr(module, "ProfilingVerbosity"):
        # So that the inspector names kernels (`layers.py`).
        config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    wanted = {
        "VERSION_COMPATIBLE": options.version_compatible,
        "STRIP_PLAN": options.strip_weights,
        "REFIT_IDENTICAL": options.strip_weights,
        "ERROR_ON_TIMING_CACHE_MISS": options.frozen_timing_cache,
    }
    for name in (name for name, on in wanted.items() if on):
        if not hasattr(module.BuilderFlag, name):
            raise EngineError(
                f"TensorRT {module.__version__} has no flag {name}; leave the option out that asks for it."
            )
        config.set_flag(getattr(module.BuilderFlag, name))


def read_options(module: Any, config: Any) -> dict[str, Any]:
    """Return what the configuration holds: what TensorRT took, not what it was asked."""

    def is_set(name: str) -> bool:
        flag = getattr(module.BuilderFlag, name, None)
        return flag is not None and bool(config.get_flag(flag))

    return {
        "strongly_typed": True,
        "tf32": is_set("TF32"),
        "optimization_level": config.builder_optimization_level,
        "workspace_mib": config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE) // MIB,
        "version_compatible": is_set("VERSION_COMPATIBLE"),
        "strip_weights": is_set("STRIP_PLAN"),
    }
