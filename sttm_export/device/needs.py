"""How much memory and disk a build takes, from the sizes of a bundle's files and measured factors.

Memory: the peaks of TensorRT-RTX 1.7 on x86-64, without streaming, which TensorRT 10.3 does not have, were 0.45 GiB for
a token merger (0.8 MiB of weights, 2,000 nodes), 2.75 GiB for an encoder of 0.77 GiB and 10.7 GiB for one of 3.5 GiB;
0.5 GiB + 3.05 × weights covers all three. On a Jetson, processor and GPU share one memory, so what full TensorRT puts
on the GPU while it times kernels comes out of the same amount; how much that is was not measured. A run of an engine
comes after its build, in a process of its own. It holds the engine at most twice (the mapped file, and on the GPU) and
its inputs and outputs four times (as read, page-locked, on the GPU, and for the comparison); it counts where it is
larger.

Disk: an engine is as large as the weights of its graph and up to 20 MiB of kernels (TensorRT-RTX 1.7: 800 MiB for
792 MiB, and 21 MiB for 0.8 MiB); the timing cache and logs are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sttm_export.device.machine import size_text

_BASE = 0.5 * 2**30
_PER_WEIGHT = 3.05
_ENGINE_COPIES = 2
_TENSOR_COPIES = 4
_DISK_FACTOR = 1.2
_DISK_BASE = 64 * 2**20


@dataclass(frozen=True)
class Needs:
    """Bytes, and in words where they come from."""

    memory: int
    memory_reason: str
    disk: int
    disk_reason: str


def derive_needs(graphs: Mapping[str, int], fixtures: Mapping[str, int]) -> Needs:
    """Return what building and checking all graphs takes; graphs are done one after the other, so the largest counts.

    Args:
        graphs: bytes of each graph with its weights, by name.
        fixtures: bytes of each graph's fixture, by name.
    """
    builds = {name: int(_BASE + _PER_WEIGHT * size) for name, size in graphs.items()}
    runs = {
        name: int(_BASE + _ENGINE_COPIES * size + _TENSOR_COPIES * fixtures.get(name, 0))
        for name, size in graphs.items()
    }
    build, run = max(builds, key=lambda name: builds[name]), max(runs, key=lambda name: runs[name])
    if builds[build] >= runs[run]:
        reason = f"building {build}: 0.5 GiB + {_PER_WEIGHT} × {size_text(graphs[build])}"
    else:
        reason = f"running {run}: 0.5 GiB + 2 × {size_text(graphs[run])} + 4 × {size_text(fixtures[run])} fixtures"
    disk = int(_DISK_BASE + _DISK_FACTOR * sum(graphs.values()))
    disk_reason = f"{_DISK_FACTOR} × {size_text(sum(graphs.values()))} of graphs + 64 MiB"
    return Needs(max(builds[build], runs[run]), reason, disk, disk_reason)
