"""What this system has free, memory and disk, in bytes and in words."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
_CGROUP = "sys/fs/cgroup"
# (limit, use, statistics, key of page cache that can be dropped); version 2 of control groups, then version 1
_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


@dataclass(frozen=True)
class MemoryFacts:
    """Memory in bytes; None where it is not known. On a Jetson, processor and GPU share it."""

    total: int | None = None
    available: int | None = None  # without swapping, as the kernel says
    limit: int | None = None  # of the container
    limit_available: int | None = None
    swap_total: int | None = None  # zram included
    swap_free: int | None = None

    @property
    def usable(self) -> int | None:
        """What a new process can have without swapping: the less of machine and container."""
        known = [value for value in (self.available, self.limit_available) if value is not None]
        return min(known, default=None)

    @property
    def with_swap(self) -> int | None:
        """The same with swap that is free: more than this no process can have."""
        return None if self.usable is None else self.usable + (self.swap_free or 0)


def read_memory(root: Path = ROOT) -> MemoryFacts:
    """Read `/proc/meminfo` and the limits of the control group; `root` is `/`, or a directory that stands in for it."""
    found = re.findall(r"^(\w+):\s+(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    rows = {name: int(kib) * 1024 for name, kib in found}
    limit, left = _container(root / _CGROUP, rows.get("MemTotal"))
    return MemoryFacts(
        rows.get("MemTotal"), rows.get("MemAvailable"), limit, left, rows.get("SwapTotal"), rows.get("SwapFree")
    )


def free_memory() -> int | None:
    """Bytes of memory that this process can have without swapping; None where the system does not say."""
    return read_memory().usable


def free_disk(path: Path) -> int | None:
    """Bytes that can be written to the disk of a directory; None where it cannot be asked."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def size_text(size: float) -> str:
    """Bytes in binary units: `5 B`, `46.1 MiB`, `614 MiB`, `3.5 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def read_text(path: Path) -> str:
    """Return a file's text; empty where it is not there. Device-tree strings end in a NUL, which is cut."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
    except OSError:
        return ""


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
