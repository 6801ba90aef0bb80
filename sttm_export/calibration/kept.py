"""What is kept of finished clips while a calibration runs, in `<output>.partial/`: a killed one goes on from there.

    settings.json    of which model, weights and options they are
    <sha256>.npz     of a clip: activation statistics
    <sha256>.json    the lines of threshold pairs; written last, so where it is, the clip is finished

Every file is written whole. The directory is removed when the calibration has its name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from sttm_export.calibration.lines import Measured
from sttm_export.contracts.records import read_json
from sttm_export.corpora.settings import differing, plain
from sttm_export.errors import UserError
from sttm_export.files.staging import is_temporary, remove_tree
from sttm_export.files.whole import write_text_whole, written_whole
from sttm_export.quantization.statistics import ActivationStatistics

SETTINGS = "settings.json"
Lines = list[list[Measured]]
"""Of one clip: for each budget, a point for each spatial threshold."""


def partial_directory(output: Path) -> Path:
    """`calibration.json.partial` beside `calibration.json`."""
    return output.with_name(f"{output.name}.partial")


class KeptClips:
    """The directory of one calibration; its maker holds the lock on the output.

    Args:
        directory: see `partial_directory`.
        settings: plain values by the option, or the words, that a user knows them by.
        force: whether clips of other settings may be thrown away.

    Raises:
        UserError: it is of other settings, or holds what this program has not written.
    """

    def __init__(self, directory: Path, settings: Mapping[str, Any], force: bool) -> None:
        self.directory = directory
        self._settings = plain(settings)
        check_ours(directory)
        if force and self._differing():
            remove_tree(directory)
        if differing := self._differing():
            raise UserError(
                f"{directory} holds clips of an earlier calibration with other {' and '.join(differing)}; give what it "
                "was begun with to go on, or --force to begin anew."
            )
        directory.mkdir(exist_ok=True)
        for left in directory.iterdir():
            if is_temporary(left.name):
                left.unlink()
        if not (directory / SETTINGS).exists():
            write_text_whole(directory / SETTINGS, json.dumps(self._settings, indent=1) + "\n")

    def statistics_path(self, sha256: str) -> Path:
        """Where the activation statistics of a clip are."""
        return self.directory / f"{sha256}.npz"

    def read(self, sha256: str) -> tuple[int, Lines] | None:
        """Frames and lines of a finished clip; None where it is not finished, or what is kept of it is damaged."""
        try:
            kept = read_json(self._lines_path(sha256))
            lines = [[Measured(*point) for point in line] for line in kept["lines"]]
            return (int(kept["frames"]), lines) if self.statistics_path(sha256).is_file() else None
        except (ValueError, KeyError, TypeError):
            return None

    def finish(self, sha256: str, frames: int, seen: ActivationStatistics, lines: Lines) -> None:
        """Keep a clip that is finished."""
        with written_whole(self.statistics_path(sha256)) as (file,):
            seen.save(file)
        kept = {"frames": frames, "lines": [[astuple(point) for point in line] for line in lines]}
        write_text_whole(self._lines_path(sha256), json.dumps(kept) + "\n")

    @property
    def holds_clips(self) -> bool:
        """Whether a clip was finished."""
        return any(_is_clip(entry.name) for entry in self.directory.glob("*.json"))

    def remove(self) -> None:
        """Remove the directory; what is in the way of that is left to the next calibration."""
        with suppress(OSError):
            remove_tree(self.directory)

    def _lines_path(self, sha256: str) -> Path:
        return self.directory / f"{sha256}.json"

    def _differing(self) -> list[str]:
        """Names of the settings that the directory has otherwise; empty for a new one."""
        if not self.directory.is_dir() or not any(not is_temporary(entry.name) for entry in self.directory.iterdir()):
            return []
        try:
            found = read_json(self.directory / SETTINGS)
        except ValueError:
            return ["settings, which cannot be read"]
        if not isinstance(found, dict):
            return ["settings, which cannot be read"]
        return differing(self._settings, found)


@contextmanager
def keeping(directory: Path, settings: Mapping[str, Any], force: bool) -> Iterator[KeptClips]:
    """Keep clips inside of the block, see `KeptClips`; what ends it early says that they are kept, if there are any."""
    kept = KeptClips(directory, settings, force)
    try:
        yield kept
    except BaseException as error:
        if not kept.holds_clips:
            kept.remove()
        elif isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"the same command goes on after the clips that are finished, which {directory} keeps"
            ) from error
        raise


def check_ours(directory: Path) -> None:
    """Refuse a directory that is none, or that holds what this program has not written.

    Raises:
        UserError: says what is in the way.
    """
    if not os.path.lexists(directory):
        return
    elsewhere = "choose another --output, or move that elsewhere"
    if directory.is_symlink() or not directory.is_dir():
        raise UserError(f"{directory}, where finished clips are kept, is no directory; {elsewhere}.")
    for entry in sorted(directory.iterdir()):
        if not (_is_ours(entry.name) and entry.is_file() and not entry.is_symlink()):
            raise UserError(
                f"{directory}, where finished clips are kept, holds {entry.name!r}, which is not of a calibration; "
                f"{elsewhere}."
            )


def _is_ours(name: str) -> bool:
    return name == SETTINGS or is_temporary(name) or _is_clip(name)


def _is_clip(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}\.(npz|json)", name) is not None
