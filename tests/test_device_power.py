"""Power modes are known by their names: the same number is the fastest mode of one board and 15 W on another."""

import pytest
from helpers_device import jetson_root, write_files

from sttm_export.machine import jetson
from sttm_export.machine.jetson import PowerFacts, parse_query, read_power

NANO = """# < POWER_MODEL ID=id_num NAME=mode_name >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_1 /sys/devices/system/cpu/cpu1/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_1 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
AGX = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=MODE_15W >\n"
NX = "< POWER_MODEL ID=0 NAME=MAXN_SUPER >\n< POWER_MODEL ID=1 NAME=MAXN >\n"


def board(root, config, number):
    return write_files(root, {"etc/nvpmodel.conf": config, "var/lib/nvpmodel/status": f"pmode:{number:04} fmode:quiet"})


@pytest.mark.parametrize(
    ("config", "number", "mode", "advice"),
    [
        (NANO, 0, "15W", "the fastest is MAXN_SUPER: sudo nvpmodel -m 2"),
        (NANO, 2, "MAXN_SUPER", ""),
        (AGX, 0, "MAXN", ""),
        (AGX, 1, "MODE_15W", "the fastest is MAXN: sudo nvpmodel -m 0"),
        (NX, 1, "MAXN", "the fastest is MAXN_SUPER: sudo nvpmodel -m 0"),
        ("< POWER_MODEL ID=0 NAME=15W >\n", 0, "15W", ""),
        ("", 3, "mode 3", ""),
    ],
)
def test_modes_are_compared_by_name(tmp_path, config, number, mode, advice):
    found = read_power(board(tmp_path, config, number))
    assert (found.mode, found.advice) == (mode, advice)


def test_what_is_said_of_a_mode(tmp_path):
    assert read_power(tmp_path).described == "not known"
    slow = read_power(board(tmp_path, NANO, 0))
    assert slow.described == "15W (the fastest is MAXN_SUPER: sudo nvpmodel -m 2)"
    assert read_power(jetson_root(tmp_path)).described == "MAXN_SUPER"


def test_without_a_status_nvpmodel_is_asked(tmp_path, monkeypatch):
    assert parse_query("NVPM WARN: no patching\nNV Power Mode: 25W\n1\n") == "25W"
    assert parse_query("NVPM ERROR: Error opening /var/lib/nvpmodel/status: 13") == ""
    root = write_files(tmp_path, {"etc/nvpmodel.conf": NANO})
    assert read_power(root) == PowerFacts("", "MAXN_SUPER", 2), "a directory that stands in for a machine"
    program = tmp_path / "bin" / "nvpmodel"
    write_files(tmp_path, {"bin/nvpmodel": "#!/bin/sh\necho NV Power Mode: 25W\necho 1\n"})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(jetson, "ROOT", root)
    assert read_power(root).mode == "25W"
    program.unlink()
    assert read_power(root).mode == ""
