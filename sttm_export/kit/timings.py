"""The timing cache of the engines that are there serves the next build, if it is of the same TensorRT and GPU."""

from __future__ import annotations

from pathlib import Path

from sttm_export.bundle.store import ENGINES
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.timing_cache import CACHE_NAME, copy_cache, read_cache
from sttm_export.errors import UserError
from sttm_export.machine.facts import MachineFacts


def keep_timings(bundle: Path, target: TargetSpec, partial: Path, facts: MachineFacts) -> list[str]:
    """Copy the cache of the target's engines into the directory of a new build.

    Returns:
        What to tell the user: empty where there is none.
    """
    old = bundle / ENGINES / target.name / CACHE_NAME
    if not old.is_file() or facts.gpu is None:
        return []
    try:
        read_cache(old, facts.tensorrt[target.flavour].version, facts.gpu.compute_capability, frozen=False)
    except UserError as error:
        return [f"  The timing cache is made anew: {error}"]
    copy_cache(old, partial / CACHE_NAME)
    return ["  Kernel timings of the last build are used again."]
