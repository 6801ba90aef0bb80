"""`SHA256SUMS`: the sums of files below a directory, in the form that `sha256sum --check` reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sttm_export.bundle.records import sha256_of
from sttm_export.errors import UserError
from sttm_export.files.names import check_links, check_name

SUMS = "SHA256SUMS"


def write_sums(directory: Path, names: Iterable[str]) -> Path:
    """Write the sums of the named files (paths below `directory`, with forward slashes), sorted by name."""
    path = directory / SUMS
    rows = [f"{sha256_of(directory / name)}  {name}\n" for name in sorted(names)]
    path.write_text("".join(rows), encoding="utf-8")
    return path


def read_sums(directory: Path) -> dict[str, str]:
    """Return {name: sha256}; no name leads out of the directory.

    Raises:
        UserError: the file is missing, a line of it is not in the form of sha256sum, or a name leads out.
    """
    path = directory / SUMS
    try:
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        sums = {name: digest for digest, name in pairs}
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} lacks a readable {SUMS}; export or build it again, or copy it anew.") from error
    for name in sums:
        check_links(directory, check_name(name, str(path)), str(path))
    return sums


def differing_files(directory: Path) -> list[str]:
    """Return one phrase for each file that is missing or changed; empty if all are as recorded."""
    faults = []
    for name, digest in read_sums(directory).items():
        file = directory / name
        if not file.is_file():
            faults.append(f"{name} is missing")
        elif sha256_of(file) != digest:
            faults.append(f"{name} was changed (its sha256 is not the recorded one)")
    return faults
