"""Facts of a machine, from files that stand in for those of a Jetson, and from this one."""

import json
import sys

import pytest
from helpers_device import jetson_root, meminfo, stanza, write_files

from sttm_export.machine.facts import read_machine
from sttm_export.machine.jetson import read_jetpack, read_l4t, read_packages
from sttm_export.machine.modules import ask_module, ask_onnxruntime
from sttm_export.system import free_disk, free_memory, read_memory, size_text

MIB = 2**20


def test_a_jetson_is_read_from_its_files(tmp_path):
    facts = read_machine(jetson_root(tmp_path))
    assert (facts.l4t, facts.jetpack, facts.power.mode) == ("36.4.3", "6.2", "MAXN_SUPER")
    assert facts.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert facts.distribution == "Ubuntu 22.04.5 LTS"
    assert (facts.memory.total, facts.memory.usable) == (7620 * MIB, 6100 * MIB)
    assert facts.memory.swap_total == 3810 * MIB
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    json.dumps(facts.to_json())


def test_an_empty_root_has_no_facts(tmp_path):
    facts = read_machine(tmp_path)
    assert (facts.l4t, facts.jetpack, facts.model, facts.power.mode, facts.distribution) == ("",) * 5
    assert facts.memory.usable is None


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("36.3.0", "6.0"),
        ("36.4.0", "6.1"),
        ("36.4", "6.1"),
        ("36.4.3", "6.2"),
        ("36.4.4", "6.2.1"),
        ("36.4.7", "6.2.1 or later"),
        ("38.2.1", "7.0 or later"),
        ("38.4.0", "7.1"),
        ("39.2.0", "7.2"),
        ("39.2.1", "7.2.1"),
        ("39.2.2", "7.2.1 or later"),
        ("35.4.1", ""),
        ("36.5.0", "6.2.2"),
        ("36.5.2", "6.2.3"),
        ("36.6.0", ""),
    ],
)
def test_jetpack_follows_from_the_release(l4t, jetpack):
    assert read_jetpack(l4t, {}) == jetpack


def test_the_metapackage_knows_better_than_the_release(tmp_path):
    write_files(
        tmp_path,
        {
            "var/lib/dpkg/status": "\n".join(
                [
                    stanza("nvidia-jetpack", "6.2.1+b38"),
                    stanza("nvidia-l4t-core", "36.4.4-20250616085344"),
                    stanza("tensorrt", "10.3.0.30-1+cuda12.5", status="deinstall ok config-files"),
                    stanza("vim", "9"),
                ]
            )
        },
    )
    packages = read_packages(tmp_path)
    assert packages == {"nvidia-jetpack": "6.2.1+b38", "nvidia-l4t-core": "36.4.4-20250616085344"}
    assert read_l4t(tmp_path, packages) == "36.4.4", "a container without the release file"
    assert read_jetpack("36.4.4", packages) == "6.2.1"


@pytest.mark.parametrize(
    ("files", "limit", "left"),
    [
        ({"memory.max": "max\n", "memory.current": "5\n"}, None, None),
        ({"memory.max": f"{4096 * MIB}", "memory.current": f"{1024 * MIB}"}, 4096, 3072),
        (
            {
                "memory.max": f"{4096 * MIB}",
                "memory.current": f"{1024 * MIB}",
                "memory.stat": f"anon 5\ninactive_file {512 * MIB}\n",
            },
            4096,
            3584,
        ),
        ({"memory/memory.limit_in_bytes": f"{2048 * MIB}", "memory/memory.usage_in_bytes": f"{48 * MIB}"}, 2048, 2000),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "48"}, None, None),
    ],
)
def test_a_containers_limit_counts(tmp_path, files, limit, left):
    write_files(tmp_path, {"proc/meminfo": meminfo(7620, 6100, 0)})
    write_files(tmp_path / "sys/fs/cgroup", files)
    memory = read_memory(tmp_path)
    assert memory.limit == (limit and limit * MIB)
    assert memory.usable == (left or 6100) * MIB


def test_a_module_says_its_version_or_why_it_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "standin_good.py").write_text("__version__ = '1.2.3'\n")
    (tmp_path / "standin_broken.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    (tmp_path / "standin_fatal.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    assert ask_module("standin_good").version == "1.2.3"
    broken = ask_module("standin_broken")
    assert not broken.loads
    assert "libnvinfer.so.10: cannot open shared object file" in broken.reason
    assert ask_module("standin_fatal").reason == "its process ended with code 7"
    assert ask_module("standin_absent").reason == "not installed"
    assert not {"standin_good", "standin_broken"} & set(sys.modules), "nothing is loaded into this process"


def test_onnxruntime_says_its_providers():
    found = ask_onnxruntime()
    assert found.loads
    assert "CPUExecutionProvider" in found.extras


def test_disk_and_sizes(tmp_path):
    assert free_disk(tmp_path) > 0
    assert free_disk(tmp_path / "absent") is None
    sizes = {0: "0 B", 1024: "1.0 KiB", 829423616: "791 MiB", 46 * MIB: "46.0 MiB", 3584 * MIB: "3.5 GiB"}
    assert {size: size_text(size) for size in sizes} == sizes


def test_free_memory_is_that_of_this_machine():
    free = free_memory()
    assert free is None or 0 < free < 1 << 50
