"""Which videos are meant: a file that is named, of a directory the videos in it, of a list what it names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.errors import UserError

SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"),
)
"""What a video in a directory is called; a file that is named itself may be called anything."""
LIST = ".txt"


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is meant. Small, as there may be millions: the text of `root` is shared."""

    root: str  # what it was found by: the directory, or that of the list or file; "/" for what lies outside of a list's
    name: str  # its place below `root`, with forward slashes

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.root, self.name)


def find_videos(given: Sequence[Path], option: str, wanted: str) -> Iterator[Found]:
    """Yield the files that are meant in the order in which they are given, those of a directory by name.

    What is given itself must be there. A file that only a list names need not be: that it cannot be read is found out
    when it is read, as with one that vanishes in between. So it is with a directory below that cannot be looked into.

    Args:
        given: files, directories and lists.
        option: that gives them, for messages.
        wanted: what to do where there are none, for messages.

    Raises:
        UserError: something that is not there, is empty, or is no file.
    """
    for place in given:
        if place.is_dir():
            yield from _of_directory(place, str(place), wanted)
        elif place.suffix.lower() == LIST:
            yield from _of_list(_file(place, option), option, wanted)
        else:
            yield Found(str(place.parent), _file(place, option).name)


def _of_directory(directory: Path, root: str, wanted: str) -> Iterator[Found]:
    """Videos in it and below it; what is hidden is left out, and links to directories are not followed."""
    try:
        next(directory.iterdir(), None)
    except OSError as error:
        raise UserError(f"Cannot look into {directory}: {error.strerror or error}; {wanted}.") from error
    start, empty = directory.relative_to(root).as_posix(), True
    for name in _below(str(directory), "" if start == "." else f"{start}/"):
        empty = False
        yield Found(root, name)
    if empty:
        raise UserError(f"{directory} holds no videos ({', '.join(SUFFIXES)}); {wanted}.")


def _below(directory: str, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            inner = sorted((entry.name, _kind(entry)) for entry in entries if not entry.name.startswith("."))
    except OSError:
        yield prefix.rstrip("/")  # whoever reads it says why not
        return
    for name, kind in inner:
        if kind == "directory":
            yield from _below(f"{directory}/{name}", f"{prefix}{name}/")
        elif kind == "file" and Path(name).suffix.lower() in SUFFIXES:
            yield prefix + name


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    try:
        return "link to a directory" if entry.is_dir() else "file"
    except OSError:  # a circle of links; whoever reads it says so
        return "file"


def _of_list(file: Path, option: str, wanted: str) -> Iterator[Found]:
    """Files and directories, one a line, relative to the list; a line may be empty or begin with #."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file} cannot be read as a list of videos ({error}); give UTF-8 text, one path a line."
        ) from error
    empty = True
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if "\0" in line or Path(line).suffix.lower() == LIST:
            what = "holds a NUL character" if "\0" in line else "is a list itself"
            raise UserError(f"{file}, line {number}: {line!r} {what}; give videos and directories, or {option} twice.")
        empty = False
        found = _placed(file.parent, line)
        if os.path.isdir(found.path):  # noqa: PTH112 - no name of a list is an error here, as with `Path.is_dir`
            yield from _of_directory(found.path, found.root, wanted)
        else:
            yield found
    if empty:
        raise UserError(f"The list {file} names no videos; {wanted}.")


def _placed(home: Path, line: str) -> Found:
    """A line of a list, by its place below the list's directory; by its whole path where it lies elsewhere."""
    if not Path(line).is_absolute() and ".." not in Path(line).parts:
        return Found(str(home), Path(line).as_posix())
    # What is above a directory that is a link is known to the file system only.
    path = (home / line).parent.resolve() / Path(line).name if Path(line).name != ".." else (home / line).resolve()
    if path.is_relative_to(home.resolve()):
        return Found(str(home), path.relative_to(home.resolve()).as_posix())
    return Found("/", path.relative_to("/").as_posix())


def _file(path: Path, option: str) -> Path:
    try:
        if path.is_file():
            return path
        what = "is no regular file" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:
        what = f"cannot be opened ({error})"
    raise UserError(f"{option}: {path} {what}; give a video file, a directory of videos, or a .txt list.")
