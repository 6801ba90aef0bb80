"""Processes, and a directory full of traps: modules that leave a mark when anything imports them."""

import os
import time
from pathlib import Path

TRAPS = ("argparse", "ctypes", "dataclasses", "json", "linecache", "numpy", "os", "runpy", "sitecustomize", "tensorrt")


def plant(folder, mark):
    """Put modules of the standard library's names, and a package of ours, into a directory."""
    trap = f"open({str(mark)!r}, 'a').write(__name__ + ' ')\n"
    for name in TRAPS:
        (folder / f"{name}.py").write_text(trap)
    package = folder / "sttm_export"
    if not package.exists():
        package.mkdir()
        (package / "__init__.py").write_text(trap)


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_running(number):
    """Zombies do not run."""
    try:
        os.kill(number, 0)
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
