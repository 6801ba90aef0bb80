"""Where a checkpoint's files lie: a local directory, or the Hugging Face hub, file by file and only those asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sttm_export.errors import UserError

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


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


def resolve_checkpoint(source: str) -> CheckpointFiles:
    """Return the files behind `--weights`: a directory, or a hub id `owner/name`, optionally `owner/name@revision`.

    Raises:
        UserError: a path that is no directory, text that is neither, or a repository that cannot be reached.
    """
    if not source.strip():
        raise UserError("The checkpoint named with --weights is empty text; give a directory or a hub id.")
    path = Path(source).expanduser()
    if path.is_dir():
        return LocalFiles(path, path.resolve().name)
    if path.is_file():
        raise UserError(f"{source} is a file; give the directory that holds the checkpoint and its config.json.")
    match = _HUB_ID.fullmatch(source)
    if match is None:
        raise UserError(
            f"'{source}' is neither an existing directory nor a hub id such as lmms-lab/LLaVA-Video-7B-Qwen2; "
            "check the path given with --weights."
        )
    from sttm_export.networks.hub import open_repository

    return open_repository(match["repo"], match["revision"])
