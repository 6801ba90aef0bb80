import dataclasses

import pytest
from helpers_standins import pretend_gpu

from sttm_export.contracts.target import find_target
from sttm_export.engines import memory
from sttm_export.engines.api import BuildOptions
from sttm_export.engines.driver import find_gpu
from sttm_export.engines.memory import memory_reason, scratch_bytes

GIB = 1 << 30
# Lines as TensorRT writes them where memory is short: NVIDIA/TensorRT issues 4258 and 2643.
ORIN = [
    "[E] Error[1]: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    "[W] [TRT] Requested amount of GPU memory (15485030400 bytes) could not be allocated.",
    "[E] Error[9]: Skipping tactic 0x0 due to exception autotuning: User allocator error allocating 4096-byte buffer",
    "[E] Error[10]: IBuilder::buildSerializedNetwork: Could not find any implementation for node {ForeignNode[a]}.",
]


def test_want_of_memory_is_told_with_sizes_and_what_to_do():
    reason = memory_reason(ORIN, None, 5 * GIB)
    assert reason.startswith("memory ran out while building: it asked for 14.4 GiB in one piece, 5.0 GiB were free; ")
    assert all(fix in reason for fix in ("--workspace MIB", "close the desktop", "add swap"))
    assert "\n" not in reason


@pytest.mark.parametrize(
    "line", ["std::bad_alloc", "Error Code 2: OutOfMemory (no further information)", "insufficient memory on requested"]
)
def test_each_way_of_saying_it(line):
    assert memory_reason([line], None, None).startswith("memory ran out while building; give --workspace")
    assert memory_reason([line], None, GIB).startswith("memory ran out while building: 1.0 GiB were free; give")
    assert "building: it asked for 3.0 GiB in one piece; give" in memory_reason(
        [line, f"requested size of {3 * GIB}"], 9, None
    )


def test_a_workspace_that_is_too_small_is_another_reason():
    lines = ["Tactic Selection: no tactics to implement the operation within workspace limit."]
    assert memory_reason(lines, 1, GIB).startswith("no kernel fits into a workspace of 1 MiB; give a larger")
    assert memory_reason(lines, None, GIB) is None


def test_other_failures_are_not_blamed_on_memory():
    assert memory_reason(["Error Code 4: no tactic", "[MemUsageChange] CPU 3, GPU 4 (MiB)"], 64, GIB) is None


def test_scratch_memory_is_the_largest_that_is_told():
    assert scratch_bytes(["Max Scratch Memory: 512 bytes", "Max Scratch Memory: 2048 bytes"]) == 2048
    assert scratch_bytes(["nothing"]) is None


@pytest.mark.parametrize(("cc", "flavour", "of_gpu"), [("8.6", "tensorrt", True), ("8.6", "tensorrt-rtx", False)])
def test_a_gpu_of_its_own_memory_is_asked(monkeypatch, cc, flavour, of_gpu):
    monkeypatch.setattr(memory, "free_memory", lambda: 7)
    pretend_gpu(monkeypatch, cc=cc, memory=5 << 30)
    monkeypatch.setattr(memory, "find_gpu", lambda: dataclasses.replace(find_gpu(), integrated=False))
    assert (memory.build_memory(flavour) > GIB) is of_gpu


def test_a_jetson_shares_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 7)
    pretend_gpu(monkeypatch, cc="8.7")
    monkeypatch.setattr(memory, "find_gpu", lambda: dataclasses.replace(find_gpu(), integrated=True))
    assert memory.build_memory("tensorrt") == 7


def test_a_jetsons_workspace_is_what_the_build_leaves(monkeypatch, tmp_path):
    """TensorRT's default is all memory of the GPU, which is all of the machine's there."""
    graph = tmp_path / "x.onnx"
    graph.write_bytes(b"g" * 1000)
    graph.with_name("x.onnx.data").write_bytes(b"w" * (100 << 20))
    orin, host, rtx = (find_target(name) for name in ("jetson-orin-jp62", "x86-trt103", "rtx"))
    pretend_gpu(monkeypatch, cc="8.7")

    def limit(target, free, asked=None):
        monkeypatch.setattr(memory, "free_memory", lambda: free)
        return memory.with_workspace(BuildOptions(workspace_mib=asked), target, graph).workspace_mib

    assert limit(orin, 6 * GIB) == 6 * 1024 - 1679 - 305 - 1, "less base and 3.05 times the weights"
    assert limit(orin, 1 * GIB) == 256, "never less than a kernel takes"
    assert limit(orin, 6 * GIB, asked=64) == 64
    assert limit(orin, None) is None
    assert limit(rtx, 6 * GIB) is None
    monkeypatch.setattr(memory, "find_gpu", lambda: dataclasses.replace(find_gpu(), integrated=False))
    assert limit(host, 6 * GIB) is None
