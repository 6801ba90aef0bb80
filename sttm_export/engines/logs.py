"""What TensorRT's log says: errors, scratch memory, and whether a build failed for want of memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

GIB = 1 << 30
_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")
# Sizes of allocations that failed, in TensorRT's own words (NVIDIA/TensorRT issues 4258, 2643).
_ASKED = re.compile(r"GPU memory \((\d+) bytes\)|requested size of (\d+)|error allocating (\d+)-byte")
_EXHAUSTED = re.compile(
    r"out of memory|OutOfMemory|could not be allocated|insufficient memory|bad_alloc", re.IGNORECASE
)
_WORKSPACE = re.compile(r"within workspace limit|requires workspace memory", re.IGNORECASE)


def scratch_bytes(lines: Iterable[str]) -> int | None:
    """Scratch memory that one run of the engine needs, as the log states it; None where it does not."""
    sizes = [int(match.group(1)) for line in lines if (match := _SCRATCH.search(line))]
    return max(sizes, default=None)


def portable_lines(lines: Iterable[str], folders: Sequence[Path]) -> tuple[str, ...]:
    """Name files by their names only: a bundle travels, the paths of the machine that built it do not."""
    text = "\0".join(lines)
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return tuple(text.split("\0")) if text else ()


def memory_reason(lines: Sequence[str], workspace_mib: int | None, free: int | None) -> str | None:
    """Say what memory a failed build wanted and how it can be had; None where memory was not the reason.

    Args:
        lines: log of the build.
        workspace_mib: the limit that was set.
        free: bytes of memory that were free before the build; None where it is not known.
    """
    text = "\n".join(lines)
    if workspace_mib is not None and _WORKSPACE.search(text):
        return f"no kernel fits into a workspace of {workspace_mib} MiB; give a larger --workspace"
    if not _EXHAUSTED.search(text):
        return None
    return exhausted(max((int(size) for found in _ASKED.findall(text) for size in found if size), default=0), free)


def exhausted(asked: int, free: int | None) -> str:
    """Say that memory ran out, and the mends; `asked` is 0 where the size is not known."""
    wanted = f": it asked for {asked / GIB:.1f} GiB in one piece" if asked else ""
    there = f"{',' if wanted else ':'} {free / GIB:.1f} GiB were free" if free is not None else ""
    return (
        f"memory ran out while building{wanted}{there}; give --workspace MIB (a quarter of the free memory, for one), "
        "close the desktop and other programs, or add swap"
    )
