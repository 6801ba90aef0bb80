"""Each refusal of a machine, and that it comes with what fixes it."""

import dataclasses

import pytest
from helpers_device import GIB, ORIN, absent, orin

from sttm_export.contracts.target import find_target
from sttm_export.engines.driver import closed_nodes, closed_text
from sttm_export.engines.memory import RTX_BASE, builder_base
from sttm_export.machine.modules import ModuleFacts
from sttm_export.machine.needs import derive_needs
from sttm_export.machine.requirements import check_machine, check_room, failed
from sttm_export.system import MemoryFacts

JP62 = find_target("jetson-orin-jp62")
X86 = find_target("x86-trt103")
NEEDS = derive_needs({"vision_encoder": 830 * 10**6, "token_merger": 10**6}, {"token_merger": 90 * 10**6}, RTX_BASE)


def tensorrt(version="", reason=""):
    return {"tensorrt": ModuleFacts("tensorrt", version, reason), "tensorrt-rtx": absent("tensorrt_rtx")}


def only_fault(facts, target=JP62):
    faults = failed(check_machine(facts, target))
    assert len(faults) == 1, faults
    assert faults[0].fix
    return faults[0]


def test_a_jetson_with_all_of_it_passes_every_check():
    checks = check_machine(orin(), JP62)
    assert [check.name for check in checks] == ["processor", "JetPack", "GPU", "TensorRT", "Python", "NumPy"]
    assert {check.status for check in checks} == {"ok"}
    assert not any(check.fix for check in checks)


def test_wrong_jetpack():
    fault = only_fault(orin(l4t="35.4.1", jetpack=""))
    assert fault.name == "JetPack"
    assert fault.found == "JetPack ? (Jetson Linux 35.4.1)"
    assert fault.needed == "JetPack 6.1, 6.2, 6.2.1, 6.2.2 or 6.2.3 (Jetson Linux 36.4, 36.5)"
    assert "SDK Manager" in fault.fix


def test_a_release_is_compared_by_its_parts():
    for same in ("36.4", "36.4.7", "36.5.0", "36.5.2"):
        assert {check.status for check in check_machine(orin(l4t=same), JP62)} == {"ok"}
    for other in ("36.3", "35.6", "38.4", "39.2.0"):
        assert only_fault(orin(l4t=other)).name == "JetPack"


@pytest.mark.parametrize("release", ["36.6.0", "36.40"])
def test_a_later_release_of_the_same_line_is_left_to_tensorrt(release):
    checks = check_machine(orin(l4t=release, jetpack=""), JP62)
    assert not failed(checks)
    assert [check.name for check in checks if check.status == "unknown"] == ["JetPack"]
    assert only_fault(orin(l4t=release, tensorrt=tensorrt("10.7.0"))).name == "TensorRT"


def test_a_container_without_a_release_is_no_refusal():
    checks = check_machine(orin(l4t="", jetpack=""), JP62)
    assert not failed(checks)
    assert {check.name for check in checks if check.status == "unknown"} == {"JetPack"}


@pytest.mark.parametrize(
    ("changes", "needed", "fix"),
    [
        ({}, "tensorrt 10.3", "apt install nvidia-jetpack python3-libnvinfer"),
        ({"virtual": True}, "tensorrt 10.3", "PYTHON=/usr/bin/python3 bash build.sh"),
    ],
)
def test_no_tensorrt_module(changes, needed, fix):
    fault = only_fault(orin(tensorrt=tensorrt(reason="not installed"), **changes))
    assert (fault.name, fault.needed) == ("TensorRT", needed)
    assert fix in fault.fix


def test_a_tensorrt_that_does_not_load_says_why():
    fault = only_fault(orin(tensorrt=tensorrt(reason="ImportError: libcudart.so.12: cannot open")))
    assert "libcudart.so.12" in fault.found
    assert "keeps it from loading" in fault.fix


@pytest.mark.parametrize("version", ["10.7.0", "8.6.2", "1.3", "10.30.0"])
def test_wrong_tensorrt(version):
    fault = only_fault(orin(tensorrt=tensorrt(version)))
    assert (fault.name, fault.found, fault.needed) == ("TensorRT", version, "tensorrt 10.3")
    assert "the version that built it" in fault.fix


def test_wrong_compute_capability_and_no_gpu():
    other = dataclasses.replace(ORIN, compute_capability="sm72", name="Xavier")
    fault = only_fault(orin(gpu=other))
    assert (fault.name, fault.found, fault.needed) == ("GPU", "sm72 (Xavier)", "sm87")
    fault = only_fault(orin(gpu=None))
    assert "no NVIDIA GPU" in fault.found
    assert "--runtime nvidia --group-add video" in fault.fix
    assert "--gpus" not in fault.fix
    host = orin(processor="x86_64", l4t="", jetpack="", gpu=None)
    assert "docker run --gpus all" in next(row for row in check_machine(host, X86) if row.name == "GPU").fix


def test_a_gpu_that_may_not_be_used_keeps_the_drivers_words(tmp_path):
    """Outside the groups there is no GPU for CUDA, though its device files are there."""
    for name in ("nvmap", "nvhost-ctrl", "dri/renderD128", "nvidia0", "dri/card0"):
        path = tmp_path / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert closed_nodes(tmp_path, lambda path: True) == {}
    assert closed_text({}) == ""
    found = closed_nodes(tmp_path, lambda path: path.name == "nvidia0")
    assert list(found) == ["/dev/nvmap", "/dev/nvhost-ctrl", "/dev/dri/renderD128"], "card0 is the display's"
    nodes = {"/dev/nvmap": "video", "/dev/nvhost-ctrl": "video", "/dev/dri/renderD128": "render"}
    text = closed_text(nodes)
    assert "/dev/nvmap, /dev/nvhost-ctrl, /dev/dri/renderD128, of the group video and render" in text
    assert "sudo usermod -aG video,render $USER, then log in again" in text
    assert "--group-add 104" in closed_text({"/dev/dri/renderD128": "104"}), "a container has no name for it"
    reason = "Cannot start the NVIDIA driver: no CUDA-capable device is detected, CUDA_ERROR_NO_DEVICE (CUDA error 100)"
    fault = only_fault(orin(gpu=None, gpu_fault=f"{reason}; {text}."))
    assert fault.found == reason
    assert "usermod -aG video,render" in fault.fix
    assert fault.fix.count("group-add") == 2


def test_full_tensorrt_takes_more_before_it_reads_a_weight():
    """927 MiB of the processor's and 752 MiB of the GPU's memory on Orin, which are one."""
    rtx, host, jetson = (builder_base(find_target(name)) for name in ("rtx", "x86-trt103", "jetson-orin-jp62"))
    assert (rtx, host, jetson) == (int(0.6 * GIB), 927 * 2**20, 1679 * 2**20)
    graphs = {"vision_encoder": 830 * 10**6}
    needs = derive_needs(graphs, {}, jetson)
    assert needs.memory == int(jetson + 3.05 * 830 * 10**6)
    assert needs.memory_reason.startswith("building")
    between = orin(memory=MemoryFacts(8 * GIB, (derive_needs(graphs, {}, rtx).memory + needs.memory) // 2))
    assert check_room(between, needs, 2 * GIB, True, "/data")[0].status == "failed"


def test_an_x86_machine_gets_all_its_faults_at_once():
    facts = orin(processor="x86_64", l4t="", jetpack="", gpu=None, tensorrt=tensorrt(reason="not installed"))
    faults = failed(check_machine(facts, JP62))
    assert [fault.name for fault in faults] == ["processor", "JetPack", "GPU", "TensorRT"]
    assert all(fault.fix for fault in faults)
    assert "no cross-build" in faults[0].fix


def test_a_gpu_host_target_on_a_jetson():
    assert [fault.name for fault in failed(check_machine(orin(), X86))] == ["processor", "GPU"]
    fault = failed(check_machine(orin(processor="x86_64", tensorrt=tensorrt(reason="not installed")), X86))[-1]
    assert "tensorrt==10.3.*" in fault.fix
    assert X86.image in fault.fix


@pytest.mark.parametrize(
    ("changes", "name", "fix"),
    [
        ({"python": "3.8.10"}, "Python", "PYTHON="),
        ({"numpy": absent("numpy")}, "NumPy", "python3-numpy"),
        ({"numpy": absent("numpy"), "virtual": True}, "NumPy", "pip install numpy"),
        ({"numpy": ModuleFacts("numpy", "1.17.4")}, "NumPy", "python3-numpy"),
    ],
)
def test_python_and_numpy(changes, name, fix):
    fault = only_fault(orin(**changes))
    assert fault.name == name
    assert fix in fault.fix


def test_what_a_build_needs_is_derived_from_the_largest_graph():
    assert NEEDS.memory == int(int(0.6 * GIB) + 3.05 * 830 * 10**6)
    assert NEEDS.memory_reason == "building vision_encoder: 614 MiB + 3.05 × 792 MiB"
    assert NEEDS.disk == int(128 * 2**20 + 1.2 * (831 * 10**6))
    large = derive_needs({"token_merger": 10**6}, {"token_merger": 200 * 10**6}, RTX_BASE)
    assert large.memory == int(0.6 * GIB + 2 * 10**6 + 10.2 * 200 * 10**6)
    assert large.memory_reason.startswith("running token_merger")


def test_room_enough_and_not_enough():
    assert not failed(check_room(orin(), NEEDS, 2 * GIB, True, "/data/bundle"))
    little = orin(memory=MemoryFacts(8 * GIB, 1 * GIB))
    memory, disk, bundle = check_room(little, NEEDS, GIB // 2, False, "/data/bundle")
    assert (memory.status, disk.status, bundle.status) == ("failed",) * 3
    assert memory.found == "1.0 GiB free"
    assert "free 2.0 GiB" in memory.fix
    assert "--ignore-memory" in memory.fix
    assert "/data/bundle" in disk.fix
    assert "larger disk" in disk.fix
    assert bundle.found == "read-only"
    assert "copy the bundle" in bundle.fix


def test_a_containers_limit_is_named():
    memory = check_room(orin(memory=MemoryFacts(8 * GIB, 6 * GIB, 2 * GIB, GIB)), NEEDS, GIB * 2, True, "/data")[0]
    assert memory.found == "1.0 GiB free below the container's limit of 2.0 GiB"


def test_ignored_memory_is_said_and_not_refused():
    little = orin(memory=MemoryFacts(8 * GIB, 1 * GIB))
    memory = check_room(little, NEEDS, 2 * GIB, True, "/data", ignore_memory=True)[0]
    assert memory.status == "unknown"
    assert "--ignore-memory" in memory.fix
    plenty = check_room(orin(), NEEDS, 2 * GIB, True, "/data", ignore_memory=True)[0]
    assert plenty.status == "ok"


def test_what_is_not_known_refuses_nothing():
    checks = check_room(orin(memory=MemoryFacts()), NEEDS, None, True, "/data")
    assert [check.status for check in checks] == ["unknown", "unknown", "ok"]
