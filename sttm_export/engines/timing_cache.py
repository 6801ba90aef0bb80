"""The timing cache: measured kernel times that full TensorRT keeps beside the engines, for the next build.

TensorRT-RTX times no kernels while it builds; they are compiled on the GPU that runs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def attach(config: Any, cache: Path) -> bool:
    """Give a cache to a build; an empty one where there is none, or none that TensorRT takes.

    TensorRT compares version and GPU itself: a cache of another machine, of the JetPack before an update or a damaged
    one is not taken.

    Returns:
        Whether the build starts from the times of an earlier one.
    """
    content = cache.read_bytes() if cache.is_file() else b""
    if content:
        made = config.create_timing_cache(content)
        if made is not None and config.set_timing_cache(made, False):
            return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False


def detach(config: Any) -> bytes:
    """Return what the cache holds after a build."""
    with_timings = config.get_timing_cache()
    return b"" if with_timings is None else bytes(memoryview(with_timings.serialize()))
