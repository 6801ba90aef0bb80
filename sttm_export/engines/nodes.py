"""Device files of the GPU that this user may not open: the commonest reason for "no GPU" on a Jetson.

On JetPack 6 `/dev/nvmap` and `/dev/nvhost-*` belong to the group `video` and `/dev/dri/renderD*` to `render`; without
both, `cuInit` says that there is no device (100), an unknown error (999) or that it is not supported (801). From
NVIDIA/NemoClaw issue 4231 and pull requests 5018 and 7762, wendylabsinc/WendyOS pull request 1699.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sttm_export.engines.meminfo import ROOT

# Tegra's own (JetPack 6), those of the driver of other GPUs (JetPack 7, hosts), and the render nodes of both.
PATTERNS = ("nvmap", "nvhost-*", "nvgpu/*/*", "nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "dri/renderD*")
_SHOWN = 3


def closed_nodes(root: Path = ROOT, can_open: Callable[[Path], bool] | None = None) -> dict[str, str]:
    """Return path → group of every such file; empty where all can be opened, or there are none.

    Args:
        root: `/`, or a directory that stands in for it.
        can_open: whether a file can be opened; None asks the system.
    """
    can_open = can_open or (lambda path: os.access(path, os.R_OK))
    found = (path for pattern in PATTERNS for path in sorted((root / "dev").glob(pattern)))
    return {f"/{path.relative_to(root)}": _group(path) for path in found if not can_open(path)}


def closed_text(nodes: dict[str, str]) -> str:
    """Say which files are closed, to which groups they belong and what to do; empty where none is closed."""
    if not nodes:
        return ""
    shown = ", ".join(list(nodes)[:_SHOWN]) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
    groups = list(dict.fromkeys(nodes.values()))
    known = [group for group in groups if not group.isdigit()] or ["video", "render"]
    added = " ".join(f"--group-add {group}" for group in groups)
    return (
        f"the GPU's device files are there ({shown}, of the group {' and '.join(groups)}), and this user may not open "
        f"them: sudo usermod -aG {','.join(known)} $USER, then log in again; in a container, start it with {added}"
    )


def _group(path: Path) -> str:
    """Name of a file's group, or its number where the system has no name for it, as in many containers."""
    try:
        number = path.stat().st_gid
    except OSError:
        return "unknown"
    try:
        # Not on every system.
        import grp

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError):
        return str(number)
