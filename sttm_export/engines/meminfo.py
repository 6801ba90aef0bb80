"""What Linux says of the machine's memory; on a Jetson that is the GPU's as well."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")


def read_meminfo(root: Path = ROOT) -> dict[str, int]:
    """Return the rows of `/proc/meminfo` in bytes, such as `MemAvailable`; empty where the system has no such file.

    Args:
        root: `/`, or a directory that stands in for it.
    """
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def free_memory() -> int | None:
    """Bytes of memory that programs can have without swapping; None where Linux does not say."""
    return read_meminfo().get("MemAvailable")
