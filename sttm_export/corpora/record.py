"""What a result says about itself: a record inside the .npz, so that both appear together or not at all."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.records import read_record
from sttm_export.corpora.settings import differing, plain
from sttm_export.errors import UserError

MEMBER = "source"
"""Name of the record among the arrays of a result: text in JSON."""
_LONGEST_RECORD = 2**16  # bytes; one has less than a thousand


@dataclass(frozen=True)
class VideoStamp:
    """A content of a file, told apart as rsync and make do, without reading it."""

    bytes: int
    modified_ns: int  # nanoseconds since 1970


@dataclass(frozen=True)
class Record:
    """What a result was made of."""

    settings: dict[str, Any]  # by the words that a user knows them by; see `differing`
    video: VideoStamp
    tokens: int  # how many there are
    backend: str  # what ran the graphs
    note: str  # a sentence where something is unusual, such as a file that breaks off; or empty

    def to_array(self) -> NDArray[np.str_]:
        """Return it as text that an .npz can hold."""
        return np.array(json.dumps(asdict(self)))


class State(Enum):
    """What lies where a result is to be."""

    MISSING = auto()
    FINISHED = auto()  # of the same bundle and settings, and of the video as it is now
    CHANGED = auto()  # of the video as it was before
    DAMAGED = auto()  # no whole .npz
    DIFFERING = auto()  # of other settings
    FOREIGN = auto()  # what this program has not written


def stamp(path: Path) -> VideoStamp | None:
    """Return what the file is now; None where it is not there, or may not be looked at."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return VideoStamp(found.st_size, found.st_mtime_ns)


def look(result: Path, settings: dict[str, Any], video: Path) -> tuple[State, str, Record | None]:
    """Say what lies where the result of a video is to be, and which settings it has otherwise.

    A result stays finished when its video is removed.

    Args:
        result: where it is to be.
        settings: those of now, as `plain` gives them.
        video: the file.
    """
    if not os.path.lexists(result):
        return State.MISSING, "", None
    if not result.is_file():
        return State.FOREIGN, "", None
    try:
        record = read(result)
    except UserError:
        return State.FOREIGN, "", None
    if record is None:
        return State.DAMAGED, "", None
    if words := differing(settings, record.settings):
        return State.DIFFERING, " and ".join(words), record
    now = stamp(video)
    return (State.FINISHED if now in {None, record.video} else State.CHANGED), "", record


def read(result: Path) -> Record | None:
    """Return the record of a result; None where it is no whole .npz.

    Raises:
        UserError: an .npz without a record.
    """
    try:
        with zipfile.ZipFile(result) as archive:
            if f"{MEMBER}.npy" not in archive.namelist():
                raise UserError(f"{result} is no result of a corpus: it has no {MEMBER!r}.")
            if archive.getinfo(f"{MEMBER}.npy").file_size > _LONGEST_RECORD:
                return None
            with archive.open(f"{MEMBER}.npy") as member:
                text = str(np.lib.format.read_array(member, allow_pickle=False))
        faults: list[str] = []
        record: Record | None = read_record(Record, json.loads(text), faults)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return None
    return record


class Results:
    """Where results are below a directory, and which of them are finished.

    Args:
        directory: of the results.
        settings: what they depend on.
        pictures: whether each has a picture beside it.
        force: whether results of other settings may be replaced.
        word: by which a user says so, for messages.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, Any],
        *,
        pictures: bool = False,
        force: bool = False,
        word: str = "--force",
    ) -> None:
        self.directory, self.settings, self._pictures = directory, plain(settings), pictures
        self._force, self._word = force, word

    def path(self, name: str) -> Path:
        """Where the result of a video is to be: its own place and name, with .npz behind."""
        return self.directory / f"{name}.npz"

    def picture(self, name: str) -> Path | None:
        """Where its picture is to be, if there is to be one."""
        return self.directory / f"{name}.png" if self._pictures else None

    def finished(self, name: str, video: Path, say: Callable[[State], None] = lambda _: None) -> Record | None:
        """Return the record of a video that is finished; None where it is to be done.

        Args:
            name: of the video.
            video: the file.
            say: told what lies there.

        Raises:
            UserError: something lies there that may not be replaced.
        """
        result, elsewhere = self.path(name), "choose another output"
        state, words, record = look(result, self.settings, video)
        if state is State.FOREIGN:
            raise UserError(f"{result} is in the way and is no result of a corpus; move it elsewhere, or {elsewhere}.")
        if state is State.DIFFERING and not self._force:
            raise UserError(
                f"{result} was made with other {words}; {elsewhere}, or replace such results with {self._word}."
            )
        picture = self.picture(name)
        if state is State.FINISHED and picture is not None and not picture.is_file():
            state = State.MISSING
        say(state)
        return record if state is State.FINISHED else None
