"""A checkpoint's files, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sttm_export.contracts.records import read_json
from sttm_export.errors import UserError


class CheckpointFiles(Protocol):
    """A named set of files, each fetched when it is asked for."""

    @property
    def identifier(self) -> str:
        """Hub id or directory name, for messages and provenance."""

    @property
    def revision(self) -> str | None:
        """Hub commit, when there is one."""

    def names(self) -> list[str]:
        """Names of the files there are."""

    def path(self, name: str) -> Path:
        """Local path of one of `names()`."""


@dataclass(frozen=True)
class LocalFiles:
    """A directory on disk."""

    directory: Path
    identifier: str
    revision: str | None = None

    def names(self) -> list[str]:
        """Names of the files directly in the directory."""
        return sorted(path.name for path in self.directory.iterdir() if path.is_file())

    def path(self, name: str) -> Path:
        """Path of a file; it need not exist."""
        return self.directory / name


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; anything else is a `UserError` that names it."""
    try:
        data = read_json(path)
    except ValueError as error:
        raise UserError(f"Cannot read {path} as JSON ({error}); download that file again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object; download that file again.")
    return data
