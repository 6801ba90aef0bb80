"""A checkpoint's files, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


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
