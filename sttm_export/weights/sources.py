"""What `--weights` names: a local directory, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from sttm_export.errors import UserError
from sttm_export.weights.files import CheckpointFiles, LocalFiles
from sttm_export.weights.hub import open_repository

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def resolve_checkpoint(source: str) -> CheckpointFiles:
    """Return the files behind `--weights`: a directory, or a hub id `owner/name`, optionally `owner/name@revision`.

    Raises:
        UserError: a path that is no directory, text that is neither, or a repository that cannot be reached.
    """
    if not source.strip():
        raise UserError("The checkpoint named with --weights is empty text; give a directory or a hub id.")
    path = _expanded(source)
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
    return open_repository(match["repo"], match["revision"])


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # ~name of nobody here, or a user without a home
        raise UserError(f"'{source}' names a home directory that cannot be found; give the path in full.") from error
