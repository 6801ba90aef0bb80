"""How much memory a process may still take, in bytes: of the machine, and of the container it is in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sttm_export.engines.meminfo import read_meminfo
from sttm_export.machine.jetpack import read_text

_CGROUP = "sys/fs/cgroup"
# (limit, use, statistics, key of page cache that can be dropped); version 2 of control groups, then version 1
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


@dataclass(frozen=True)
class MemoryFacts:
    """Memory in bytes; None where it is not known.

    Attributes:
        total: of the machine. On a Jetson, processor and GPU share it.
        available: what the kernel says can be had without swapping.
        limit: of the container; None without one.
        limit_available: what is left of that limit.
        swap_total: swap, zram included.
        swap_free: what is left of it.
    """

    total: int | None = None
    available: int | None = None
    limit: int | None = None
    limit_available: int | None = None
    swap_total: int | None = None
    swap_free: int | None = None

    @property
    def usable(self) -> int | None:
        """What a new process can have without swapping: the less of machine and container."""
        known = [value for value in (self.available, self.limit_available) if value is not None]
        return min(known, default=None)


def read_memory(root: Path) -> MemoryFacts:
    """Read `/proc/meminfo` and the limits of the control group.

    Args:
        root: `/`, or a directory that stands in for it.
    """
    rows = read_meminfo(root)
    limit, left = _container(root / _CGROUP, rows.get("MemTotal"))
    return MemoryFacts(
        rows.get("MemTotal"), rows.get("MemAvailable"), limit, left, rows.get("SwapTotal"), rows.get("SwapFree")
    )


def _container(root: Path, total: int | None) -> tuple[int | None, int | None]:
    for limit_name, use_name, statistics, key in _CGROUP_FILES:
        limit, use = read_text(root / limit_name).strip(), read_text(root / use_name).strip()
        # Version 1 writes a number near 2^63 for no limit.
        if not limit.isdigit() or not use.isdigit() or (total is not None and int(limit) >= total):
            continue
        cache = re.search(rf"^{key} (\d+)$", read_text(root / statistics), re.MULTILINE)
        # Cached file pages count as used, but give way to a process that asks.
        used = int(use) - (int(cache.group(1)) if cache else 0)
        return int(limit), max(int(limit) - used, 0)
    return None, None
