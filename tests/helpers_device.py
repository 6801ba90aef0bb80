"""Machines that are not here: directories that stand in for `/`, and facts of a Jetson that has everything."""

import dataclasses

from sttm_export.engines.driver import Gpu
from sttm_export.machine.facts import MachineFacts
from sttm_export.machine.modules import ModuleFacts
from sttm_export.system import MemoryFacts

RELEASE = "# R{major} (release), REVISION: {revision}, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
GIB = 2**30


def write_files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def stanza(name, version, status="install ok installed"):
    return f"Package: {name}\nStatus: {status}\nPriority: optional\nVersion: {version}\nDescription: text\n more text\n"


def jetson_root(root, major="36", revision="4.3"):
    """The files of a Jetson Orin Nano with JetPack."""
    return write_files(
        root,
        {
            "etc/nv_tegra_release": RELEASE.format(major=major, revision=revision),
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nX\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
            "var/lib/nvpmodel/status": "pmode:0002 fmode:fanNull",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "proc/meminfo": meminfo(7620, 6100, 3810),
        },
    )


def meminfo(total, available, swap):
    """In MiB."""
    rows = {"MemTotal": total, "MemFree": 500, "MemAvailable": available, "SwapTotal": swap, "SwapFree": swap}
    return "".join(f"{name}: {value * 1024:>12} kB\n" for name, value in rows.items()) + "HugePages_Total: 0\n"


ORIN = Gpu("Orin", "sm87", 8 * GIB, integrated=True, cuda="12.6")


def orin(**changes):
    """Facts of an Orin Nano on which all is well."""
    facts = MachineFacts(
        system="Linux",
        processor="aarch64",
        l4t="36.4.3",
        jetpack="6.2",
        python="3.10.12",
        interpreter="/usr/bin/python3",
        numpy=ModuleFacts("numpy", "1.21.5"),
        memory=MemoryFacts(8 * GIB, 6 * GIB),
        gpu=ORIN,
        tensorrt={"tensorrt": ModuleFacts("tensorrt", "10.3.0"), "tensorrt-rtx": absent("tensorrt_rtx")},
    )
    return dataclasses.replace(facts, **changes)


def absent(name):
    return ModuleFacts(name, reason="not installed")
