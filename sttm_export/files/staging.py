"""Directories that get their name when they are whole, and what becomes of those whose maker was killed.

While it is made, a directory (or file) is called `.<name>.partial-<process>`; one that is being replaced, for the
moment between two renames, `.<name>.old-<process>`. Who holds the lock on a name may put such an old one back and
remove the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.(partial|old)-\d+(-[0-9a-f]{8})?")
_SHARED = re.compile(r"\..+\.partial-(\d+)-([0-9a-f]{8})")
# Seconds after which nobody is still writing a file of this age.
_ABANDONED = 24 * 3600


def partial_path(path: Path) -> Path:
    """Where this process makes what is to be called `path`."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def shared_partial(path: Path) -> Path:
    """The same, for a directory into which other machines write as well, whose processes may have the same number."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}-{_machine()}")


def sweep_shared(directory: Path) -> int:
    """Remove what processes that were killed have left under `shared_partial` names; returns how many there were.

    Of this machine's processes that is known at once; of those of others, when a file has not been touched for a day.
    """
    removed = 0
    try:
        with os.scandir(directory) as entries:
            found = [(entry, match) for entry in entries if (match := _SHARED.fullmatch(entry.name))]
    except OSError:
        return 0  # who writes there says what is wrong with it
    for entry, match in found:
        with contextlib.suppress(FileNotFoundError):
            old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED
            if old or (match[2] == _machine() and not _runs(int(match[1]))):
                Path(entry.path).unlink()
                removed += 1
    return removed


def is_temporary(name: str) -> bool:
    """Whether a name is one that this module gives."""
    return _TEMPORARY.fullmatch(name) is not None


def give_name(partial: Path, path: Path) -> None:
    """Rename a whole directory to its name; one that was there before goes only after the new one stands.

    Whatever ends this early, the name leads to the old one or to the new one, or `recover` leads it to the old one.
    """
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        if os.path.lexists(path):
            path.rename(old)
        partial.rename(path)
    except BaseException:
        if os.path.lexists(old) and not os.path.lexists(path):
            old.rename(path)
        raise
    remove_tree(old)


def recover(path: Path) -> list[str]:
    """Put back what a process that was killed between two renames has left without its name.

    Returns:
        What to tell the user: empty where nothing was to be done.
    """
    if os.path.lexists(path):
        return []
    for old in _left(path, "old"):
        old.rename(path)
        return [f"{path} was put back: an earlier process was killed while it replaced it"]
    return []


def sweep(path: Path) -> list[str]:
    """Remove what processes that were killed have left of `path`; of a process that still runs, nothing.

    Returns:
        What to tell the user: empty where nothing was to be done.
    """
    left = [*_left(path, "partial"), *_left(path, "old")]
    for folder in left:
        remove_tree(folder)
    return [f"removed {folder}, which a process that was killed had left" for folder in left]


def remove_tree(folder: Path) -> None:
    """Remove a directory or file, if it is there; an interrupt in the middle is raised when it is gone."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _left(path: Path, kind: str) -> Iterator[Path]:
    """What is left of `path` under temporary names of processes that are gone, the youngest first."""
    pattern = re.compile(rf"{re.escape(f'.{path.name}.{kind}-')}(\d+)")
    try:
        found = [(entry, pattern.fullmatch(entry.name)) for entry in path.parent.iterdir()]
    except FileNotFoundError:
        return
    left = [entry for entry, match in found if match and not _runs(int(match.group(1)))]
    yield from sorted(left, key=lambda entry: entry.lstat().st_mtime, reverse=True)


def _machine() -> str:
    """Eight characters for this machine or container, by its name."""
    return hashlib.sha256(platform.node().encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _runs(process: int) -> bool:
    # In a container every run may have the same number: what bears this process's own was left by another.
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
