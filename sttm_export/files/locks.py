"""One process at a time: who comes second is told at once, or waits. A lock is let go when its process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sttm_export.errors import UserError

# File systems without locks (some network ones): the process numbers in temporary names still protect what lives.
_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


@contextlib.contextmanager
def locked_beside(path: Path, refusal: str | None) -> Iterator[None]:
    """Hold a lock on a name that need not exist yet, by the file `.<name>.lock` beside it; it is removed at the end.

    Args:
        path: what only one process may make; its directory exists.
        refusal: the sentence for who comes second; None to wait until the first is done.

    Raises:
        UserError: another process holds the lock.
    """
    place = path.with_name(f".{path.name}.lock")
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            _lock(descriptor, refusal)
            # Who held it before may have removed the file between the two calls: then this lock is on nothing.
            if _same_file(descriptor, place):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            place.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def locked_directory(directory: Path, refusal: str) -> Iterator[None]:
    """Hold a lock on a directory that exists; nothing is written. What is no directory is left to who opens it.

    Raises:
        UserError: another process holds the lock.
    """
    if not directory.is_dir():
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, refusal)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, refusal: str | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if refusal is None else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(refusal or f"The file system refuses a lock ({error.strerror}); try again.") from error
        raise


def _same_file(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False
