"""Where windows go: `-` for a stream on a pipe, a file `.npz` that holds the newest, or a directory of files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from sttm_export.errors import UserError
from sttm_export.files.whole import check_not_input, check_writable
from sttm_export.streams.records import FileSink, FolderSink, StreamSink

PIPE = "-"
_ONE_FILE = ".npz"


def check_output(output: str, keep: int | None, inputs: list[tuple[str, Path]]) -> None:
    """Refuse, before any work, an `--output` that cannot be written, and a `--keep` that is not possible with it.

    Args:
        output: as it was given.
        keep: newest windows that a directory keeps.
        inputs: files that are read, by what they are.

    Raises:
        UserError: says what to give.
    """
    one_file, path = output.endswith(_ONE_FILE), Path(output)
    if keep is not None and (output == PIPE or one_file):
        raise UserError("--keep is about windows in a directory; give --output a directory with it, or leave it out.")
    if keep is not None and keep < 1:
        raise UserError(f"--keep {keep} is not possible; give a whole number from 1.")
    if output == PIPE:
        if os.isatty(1):
            raise UserError("--output - writes windows to a pipe or file, and this is a terminal; add | or >.")
    elif one_file:
        check_writable(path, "--output")
        check_not_input(path, "--output", inputs)
    elif not path.is_dir() and (path.exists() or not path.resolve().parent.is_dir()):
        raise UserError(
            f"--output {output} is no directory, nor in one; give a directory, {PIPE}, or a file {_ONE_FILE} for the "
            "newest window."
        )


def open_sink(output: str, keep: int | None, stack: ExitStack) -> StreamSink | FileSink | FolderSink:
    """Return what writes there; for a pipe it has a descriptor of its own, closed with the stack, and no buffer.

    Raises:
        UserError: the directory cannot be made.
    """
    if output == PIPE:
        return StreamSink(stack.enter_context(os.fdopen(os.dup(1), "wb", buffering=0)))
    return FileSink(Path(output)) if output.endswith(_ONE_FILE) else FolderSink(Path(output), keep)
