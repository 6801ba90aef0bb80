"""Windows as they leave: one behind the other on a pipe, or each in a file of its own.

On a pipe a window is one line of JSON, and behind it the arrays that the line names, each a whole `.npy` of as many
bytes as the line says. docs/camera.md has a reader of six lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sttm_export.errors import UserError, first_line
from sttm_export.files.whole import written_whole
from sttm_export.runtime.merged import merged_arrays, write_npz
from sttm_export.runtime.session import Array, Arrays
from sttm_export.streams.window import Emitted

FORMAT = 1
_LONGEST_LINE = 1 << 26  # bytes; a window of a million frames stays below
_NAME = re.compile(r"window-([0-9]{6,})\.npz")
_BROKEN = "the program that wrote it was ended, or something else writes there"


class StreamSink:
    """Writes windows to a pipe or file, one behind the other.

    A window that could not be written whole is taken back where the file allows it; a pipe does not, and its reader is
    told by `read_windows`.

    Args:
        file: open for writing, with nothing buffered in it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._window = file, 0

    def write(self, emitted: Emitted, facts: Mapping[str, Any]) -> None:
        """Write one window.

        Raises:
            OSError: the disk is full, or nobody reads the pipe any more.
        """
        arrays = window_arrays(emitted)
        heads = {name: _head(array) for name, array in arrays.items()}
        record = window_record(emitted, facts, self._window + 1)
        record["arrays"] = {name: len(heads[name]) + array.nbytes for name, array in arrays.items()}
        pieces = [memoryview(json.dumps(record, allow_nan=False).encode() + b"\n")]
        for name, array in arrays.items():
            pieces += [memoryview(heads[name]), array.reshape(-1).view(np.uint8).data]
        with _taken_back(self._file):
            for piece in pieces:
                _write_all(self._file, piece)
            self._file.flush()
        self._window += 1


class FolderSink:
    """Writes each window as `window-000001.npz` and so on; what is there is whole.

    Windows of an earlier run stay, and numbers go on after theirs.

    Args:
        folder: a directory; it is made where there is none.
        keep: most windows in the folder, those of earlier runs included: the oldest are removed. None keeps all.

    Raises:
        UserError: the folder cannot be made.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        if keep is not None and keep < 1:
            raise UserError(f"Cannot keep {keep} windows; give a number of at least 1, or leave it out to keep all.")
        self._folder, self._keep, self._run = folder, keep, 0
        try:
            folder.mkdir(exist_ok=True)
            names = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        except OSError as error:
            raise UserError(
                f"Cannot write to the directory {folder}: {error.strerror}; give one whose parent exists and that can "
                "be written."
            ) from error
        numbers = sorted(int(match[1]) for match in names)
        self._last = numbers[-1] if numbers else 0
        # Those that are removed sooner or later; without `keep` none are.
        self._there = deque(numbers if keep else [])

    def write(self, emitted: Emitted, facts: Mapping[str, Any]) -> None:
        """Write one window, and remove the oldest if there are too many.

        Raises:
            UserError: it cannot be written; the windows before it are as they were.
        """
        number = self._last + 1
        _write_file(self._path(number), emitted, facts, number)
        self._last = number
        if self._keep is None:
            return
        self._there.append(number)
        while len(self._there) > self._keep:
            with contextlib.suppress(OSError):
                self._path(self._there[0]).unlink()
            self._there.popleft()

    def _path(self, number: int) -> Path:
        return self._folder / f"window-{number:06d}.npz"


class FileSink:
    """Writes each window over the one before: the file holds the last, always whole.

    Args:
        path: of the `.npz`.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._window = path, 0

    def write(self, emitted: Emitted, facts: Mapping[str, Any]) -> None:
        """Replace the file.

        Raises:
            UserError: it cannot be written; the window before is as it was.
        """
        _write_file(self._path, emitted, facts, self._window + 1)
        self._window += 1


@dataclass(frozen=True)
class WindowRecord:
    """A window that was read back."""

    facts: dict[str, Any]  # the line of JSON
    arrays: Arrays  # by name; see `window_arrays`


def read_windows(file: BinaryIO) -> Iterator[WindowRecord]:
    """Read what `StreamSink` wrote, from a pipe or file, one window in memory at a time.

    Raises:
        UserError: something else, another format, or an end in the middle of a window.
    """
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        facts = _read_line(line, number)
        arrays = {name: _read_array(file, name, size, number) for name, size in facts["arrays"].items()}
        yield WindowRecord(facts, arrays)


def window_arrays(emitted: Emitted) -> Arrays:
    """Arrays of a window, named as `sttm-export run` names them: the merge, `timestamps` and `frame_indices`."""
    arrays = {**merged_arrays(emitted.merged), **_labels(emitted)}
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}


def window_record(emitted: Emitted, facts: Mapping[str, Any], number: int) -> dict[str, Any]:
    """What is known of a window in plain values: number, frames and times, tokens, counts, and facts of the stream."""
    return {
        "format": FORMAT,
        "window": number,
        "frames": emitted.numbers.tolist(),
        "times": emitted.timestamps.tolist(),
        "tokens": emitted.merged.num_tokens,
        "converged": emitted.merged.converged,
        "counts": asdict(emitted.counts),
        "stream": dict(facts),
    }


def _labels(emitted: Emitted) -> Arrays:
    return {"timestamps": emitted.timestamps, "frame_indices": emitted.numbers}


def _write_file(path: Path, emitted: Emitted, facts: Mapping[str, Any], number: int) -> None:
    record = json.dumps(window_record(emitted, facts, number), allow_nan=False)
    with written_whole(path) as (file,):
        write_npz(file, emitted.merged, **_labels(emitted), record=np.array(record))


def _head(array: Array) -> bytes:
    """What stands before the data in a `.npy`."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return head.getvalue()


@contextlib.contextmanager
def _taken_back(file: BinaryIO) -> Iterator[None]:
    """Whatever ends the block early, a file is cut to what it was; pipes and what has no descriptor are left."""
    try:
        before = os.fstat(file.fileno())
    except OSError:
        before = None
    try:
        yield
    except BaseException:
        if before is not None and stat.S_ISREG(before.st_mode):
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), before.st_size)
        raise


def _write_all(file: BinaryIO, data: memoryview) -> None:
    """A file without a buffer takes as much as it likes."""
    while len(data):
        data = data[file.write(data) :]


def _read_line(line: bytes, number: int) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise UserError(f"The stream ends in the middle of window {number}; {_BROKEN}.")
    try:
        facts = json.loads(line)
        known, arrays = facts["format"], facts["arrays"]
        whole = all(isinstance(size, int) and size > 0 for size in arrays.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"What stands before window {number} is no line of JSON about it ({first_line(error)}); {_BROKEN}."
        ) from error
    if known != FORMAT or not whole:
        raise UserError(
            f"Window {number} has format {known!r:.20}, this program reads {FORMAT}; use the program's own."
        )
    return dict(facts)


def _read_array(file: BinaryIO, name: str, size: int, number: int) -> Array:
    data = file.read(size)
    if len(data) < size:
        raise UserError(f"The stream ends in the middle of window {number}; {_BROKEN}.")
    try:
        array: Array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"'{name}' of window {number} is no .npy ({first_line(error)}); {_BROKEN}.") from error
    return array
