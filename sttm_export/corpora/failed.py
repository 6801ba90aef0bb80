"""`failed.jsonl`: a line for each video that could not be read, with one sentence that says why."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path

from sttm_export.errors import UserError
from sttm_export.files.locks import locked_beside
from sttm_export.files.whole import written_whole

NAME = "failed.jsonl"


class BadVideoError(Exception):
    """A video that cannot be read; others can. The message is one sentence."""


class FailedList:
    """The list in a directory of results. Several processes may write it; each waits for its turn.

    A line is a JSON object: `video`, the path that was read; `name`, the place of its result without .npz; `why`.

    Args:
        directory: of the results.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def add(self, video: Path, name: str, why: str) -> None:
        """Add a line.

        Raises:
            UserError: it cannot be written.
        """
        line = json.dumps({"video": str(video), "name": name, "why": why}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked_beside(self.path, None), self.path.open("ab") as file:
                file.write(line.encode("ascii"))
        except OSError as error:
            raise UserError(
                f"Cannot write {self.path}: {error.strerror or error}; give an output directory that is writable and "
                "has room."
            ) from error

    def forget(self, names: Container[str]) -> None:
        """Take out the lines of videos that are about to be looked at again, by `name`; and those that are broken.

        Raises:
            UserError: it cannot be written.
        """
        if not self.path.is_file():
            return
        with locked_beside(self.path, None):
            lines = self.path.read_bytes().splitlines(keepends=True)
            left = [line for line in lines if (name := _name(line)) is not None and name not in names]
            if not left:
                self.path.unlink()
            elif len(left) < len(lines):
                with written_whole(self.path) as (file,):
                    file.writelines(left)


def _name(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["name"])
    except (ValueError, KeyError, TypeError):
        return None
