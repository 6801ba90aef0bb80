"""Bundles without graphs: what a directory must have to be taken for one, made in a millisecond."""

import json
import subprocess

from sttm_export.engines.sums import write_sums

FIELDS = {"format": 2, "program": "sttm-export 0.1.0", "graphs": [], "files": [], "validation": {"passed": True}}


def make_bundle(directory, *, files=("a.onnx",), **fields):
    """Write the named files, a manifest and the sums of all of them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    (directory / "manifest.json").write_text(json.dumps(FIELDS | fields))
    write_sums(directory, [*files, "manifest.json"])
    return directory


def contents(directory):
    """Every file and link below a directory with what is in it, and the empty directories."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if path.is_file() or path.is_symlink() or not any(path.iterdir())
    }


def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
