"""How much memory and disk a build takes, from the sizes of a bundle's files and measured factors.

Memory: the peaks of TensorRT-RTX 1.7 on x86-64, without streaming, which TensorRT 10.3 does not have, were 0.46, 0.56
and 0.47 GiB for token mergers of 8, 32 and 128 frames (0.9 to 6.3 MiB of weights), 2.75 GiB for an encoder of 0.77 GiB
and 10.7 GiB for one of 3.5 GiB; 0.6 GiB + 3.05 × weights covers all five. Full TensorRT takes more before
it has read a weight (`engines/memory.py`), on a Jetson for processor and GPU out of one memory.
A run of an engine comes after its build, in a process of its own. It holds the engine at most twice (the
mapped file, and on the GPU), its inputs and outputs four times (as read, page-locked, on the GPU, and for the
comparison), and scratch memory: TensorRT-RTX states 264 and 1,053 MiB for mergers of 32 and 128 frames, 4.1 times
their inputs and outputs, and 54 MiB for the encoder, 6.2 times. It counts where it is larger than the build.

Disk: an engine is as large as the weights of its graph and up to 46 MiB of kernels (TensorRT-RTX 1.7: 800 MiB for
792 MiB; 39, 48 and 29 MiB for the three mergers); the timing cache and logs are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sttm_export.engines.memory import PER_WEIGHT
from sttm_export.system import size_text

_RUN_BASE = 0.6 * 2**30
_ENGINE_COPIES = 2
_TENSOR_COPIES = 4 + 6.2  # and scratch memory
_DISK_FACTOR = 1.2
_DISK_BASE = 128 * 2**20


@dataclass(frozen=True)
class Needs:
    """Bytes, and in words where they come from."""

    memory: int
    memory_reason: str
    disk: int
    disk_reason: str


def derive_needs(graphs: Mapping[str, int], fixtures: Mapping[str, int], base: int) -> Needs:
    """Return what building and checking all graphs takes; graphs are done one after the other, so the largest counts.

    Args:
        graphs: bytes of each graph with its weights, by name.
        fixtures: bytes of each graph's fixture, by name.
        base: bytes that the builder takes whatever it builds, by `builder_base`.
    """
    builds = {name: int(base + PER_WEIGHT * size) for name, size in graphs.items()}
    runs = {
        name: int(_RUN_BASE + _ENGINE_COPIES * size + _TENSOR_COPIES * fixtures.get(name, 0))
        for name, size in graphs.items()
    }
    build, run = max(builds, key=lambda name: builds[name]), max(runs, key=lambda name: runs[name])
    if builds[build] >= runs[run]:
        reason = f"building {build}: {size_text(base)} + {PER_WEIGHT} × {size_text(graphs[build])}"
    else:
        sizes = f"2 × {size_text(graphs[run])} + {_TENSOR_COPIES} × {size_text(fixtures[run])} of fixtures"
        reason = f"running {run}: 0.6 GiB + {sizes}"
    disk = int(_DISK_BASE + _DISK_FACTOR * sum(graphs.values()))
    disk_reason = f"{_DISK_FACTOR} × {size_text(sum(graphs.values()))} of graphs + 128 MiB"
    return Needs(max(builds[build], runs[run]), reason, disk, disk_reason)
