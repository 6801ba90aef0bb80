"""Files that are written beside their names and renamed: what was there before survives whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from sttm_export.errors import UserError
from sttm_export.files.staging import partial_path, sweep


@contextlib.contextmanager
def written_whole(*paths: str | Path) -> Iterator[tuple[BinaryIO, ...]]:
    """Yield one open file for each path; at the end of the block all get their names, or none does.

    A path that is a link is written where it leads. An error in the block, or a disk that is full, leaves everything
    as it was.

    Raises:
        UserError: a path cannot be written.
    """
    places = [Path(path) for path in paths]
    try:
        # Inside: a file with something left in its buffer fails once more where it is closed.
        with contextlib.ExitStack() as stack:
            finals = [_final(place) for place in places]
            partials = [partial_path(final) for final in finals]
            for final, partial in zip(finals, partials, strict=True):
                sweep(final)
                stack.callback(partial.unlink, missing_ok=True)
            files = [stack.enter_context(partial.open("wb")) for partial in partials]
            yield tuple(files)
            for file in files:
                file.close()
            for partial, final in zip(partials, finals, strict=True):
                _keep_mode(partial, final)
                partial.replace(final)
    except OSError as error:
        names = " and ".join(map(str, places))
        raise UserError(
            f"Cannot write {names}: {error.strerror or error}; choose a directory that exists, is writable and has "
            "room; what was there before is as it was."
        ) from error


def write_text_whole(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8; see `written_whole`."""
    with written_whole(path) as (file,):
        file.write(text.encode("utf-8"))


def check_writable(path: Path, what: str) -> None:
    """Refuse, before any work, a path that `written_whole` could not write.

    Args:
        path: a file to be made or replaced.
        what: the option that names it, for the message.

    Raises:
        UserError: no directory to lie in, a directory itself, a device, or no right to write.
    """
    final = path.resolve()
    if not final.parent.is_dir() or final.is_dir():
        raise UserError(f"Cannot write {path}; give {what} a file in a directory that exists.")
    if final.exists() and not final.is_file():
        raise UserError(f"Cannot write {path}, which is no regular file; give {what} the name of one.")
    if not os.access(final.parent, os.W_OK):
        raise UserError(f"Cannot write {path}: {final.parent} is not writable; give {what} a file elsewhere.")


def check_suffix(path: Path, what: str, suffix: str) -> None:
    """Refuse, before any work, a name that says another kind of file than is written.

    Args:
        path: to be written.
        what: the option that names it.
        suffix: of the kind, with its dot.

    Raises:
        UserError: the name does not end with it.
    """
    if path.suffix.lower() != suffix:
        option = what.lstrip("-")
        raise UserError(
            f"{what} {path} is no {suffix} file, which is what it writes; give a name such as {option}{suffix}."
        )


def check_not_input(path: Path, what: str, inputs: Sequence[tuple[str, Path]]) -> None:
    """Refuse to write over what is read, also by another name of it.

    Args:
        path: to be written.
        what: the option that names it.
        inputs: (what it is, path) of everything that is read, or written beside it; a directory stands for all in it.

    Raises:
        UserError: it is one of them.
    """
    for role, other in inputs:
        inside = other.is_dir() and path.resolve().is_relative_to(other.resolve())
        same = path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))
        if same or inside:
            raise UserError(f"{what} {path} {'lies in' if inside else 'is'} {role}; choose another name for it.")


def _final(place: Path) -> Path:
    final = place.resolve()
    if final.exists() and not final.is_file():
        raise UserError(f"Cannot write {place}, which is no regular file; give the name of one.")
    return final


def _keep_mode(partial: Path, final: Path) -> None:
    """A file that is replaced keeps its rights."""
    if final.is_file():
        with contextlib.suppress(OSError):
            partial.chmod(stat.S_IMODE(final.stat().st_mode))
