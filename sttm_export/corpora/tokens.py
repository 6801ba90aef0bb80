"""`sttm_export.VideoTokens`: a callable that an engine gives batches of paths, one instance for each of its workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.bundle.opened import Bundle, open_to_run
from sttm_export.contracts.graph import TOKEN_MERGER
from sttm_export.corpora.failed import BadVideoError
from sttm_export.corpora.record import Results
from sttm_export.corpora.seeing import Seen, Viewer, check_name
from sttm_export.errors import UserError
from sttm_export.pipeline.backend import AUTO
from sttm_export.pipeline.load import prepare

Batch = Mapping[str, NDArray[Any]]


class VideoTokens:
    """Merges the tokens of videos, batch by batch, with a bundle that is loaded at the first batch and stays loaded.

    For Ray Data's `map_batches` with `batch_format="numpy"` and a pool of actors, and for anything else that maps over
    batches. It can be pickled, and sent to where it runs; what was loaded stays behind. One call at a time.

    Args:
        bundle: directory that sttm-export wrote, at the same path wherever it runs.
        output: directory for a result of each video, as `sttm-export run --videos` writes it; those that are finished
            are not made again. None returns the arrays themselves.
        root: directory that places below the output are relative to; None, or a video elsewhere, keeps the whole path.
        column: of a batch, holds the paths.
        fps: frames a second to sample; None for the model's.
        force: replace results of other settings.
        backend: and what follows, as for `sttm_export.load`.
        target: whose engines.
        cuda_graph: launch each engine as one CUDA graph.
        threads: of ONNX Runtime within an operator; 0 leaves the choice to it.
        spatial_threshold: None for the bundle's.
        temporal_threshold: None for the bundle's.
    """

    def __init__(
        self,
        bundle: str | Path,
        output: str | Path | None = None,
        *,
        root: str | Path | None = None,
        column: str = "path",
        fps: float | None = None,
        force: bool = False,
        backend: str = AUTO,
        target: str | None = None,
        cuda_graph: bool = False,
        threads: int = 0,
        spatial_threshold: float | None = None,
        temporal_threshold: float | None = None,
    ) -> None:
        self._bundle, self._output = Path(bundle).absolute(), None if output is None else Path(output).absolute()
        self._root = None if root is None else Path(root).absolute()
        self._column, self._fps, self._force = column, fps, force
        self._options: dict[str, Any] = {
            "backend": backend,
            "target": target,
            "cuda_graph": cuda_graph,
            "threads": threads,
            "spatial_threshold": spatial_threshold,
            "temporal_threshold": temporal_threshold,
        }
        self._opened: tuple[Viewer, Results | None] | None = None

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Merge the tokens of each video of a batch.

        Args:
            batch: columns of n rows, one of them paths.

        Returns:
            The batch's columns, and of n rows each:

            - `num_tokens`, int32: 0 where the video cannot be read;
            - `error`, text: one sentence that says why, or empty;
            - with an output, `file`, text: the result, or empty;
            - without, the arrays of a result, each row of its own length: `tokens` [k, C] of the graph's dtype,
              `token_box` int32 [k, 5], `token_patches` int32 [k], `assignment` int32 [T', N], `timestamps` float64
              [T'], `frame_indices` int64 [frames] and `thresholds_applied` float32 [2]; all of length 0 where the video
              cannot be read.

        Raises:
            UserError: what is the same for every video: no bundle, no such column, a graph that cannot be run, a result
                of other settings in the way, a full disk.
        """
        if self._column not in batch:
            raise UserError(f"The batch has no column {self._column!r}, only {', '.join(batch)}; give column=….")
        rows = [self._row(path) for path in batch[self._column]]
        kinds = ["num_tokens", "error", *(["file"] if self._output is not None else _ARRAYS)]
        return {**batch, **{name: _column(name, [row[name] for row in rows]) for name in kinds}}

    def close(self) -> None:
        """Free the graphs; the next batch would load them again."""
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def _open(self) -> tuple[Viewer, Results | None]:
        if self._opened is None:
            viewer = Viewer(*prepare(open_to_run(self._bundle), **self._options), self._fps)
            results = None
            if self._output is not None:
                results = Results(self._output, viewer.settings, force=self._force, word="force=True")
            self._opened = viewer, results
        return self._opened

    def _row(self, given: Any) -> dict[str, Any]:
        viewer, results = self._open()
        try:
            path = _path(given)
            if results is None:
                return {"error": "", **_arrays(viewer.see(path), viewer.pipeline.bundle.model.frames_per_step)}
            return {"error": "", **self._written(path, viewer, results)}
        except BadVideoError as error:
            if results is None:
                return {"error": str(error), **_no_arrays(viewer.pipeline.bundle)}
            return {"error": str(error), "num_tokens": 0, "file": ""}

    def _written(self, path: Path, viewer: Viewer, results: Results) -> dict[str, Any]:
        name = self._place(path)
        check_name(name)
        record = results.finished(name, path)
        if record is None:
            seen = viewer.see(path)
            viewer.write(seen, results, name)
        return {"num_tokens": record.tokens if record else seen.num_tokens, "file": str(results.path(name))}

    def _place(self, path: Path) -> str:
        whole = path.absolute()
        below = self._root if self._root is not None and whole.is_relative_to(self._root) else Path("/")
        return whole.relative_to(below).as_posix()


_ARRAYS = (
    *("tokens", "token_box", "token_patches", "assignment", "timestamps", "frame_indices", "thresholds_applied"),
)


def _path(given: Any) -> Path:
    try:
        return Path(os.fsdecode(given))
    except TypeError as error:
        raise BadVideoError(f"{given!r} is no path; give the path of a video as text.") from error


def _arrays(seen: Seen, step: int) -> dict[str, Any]:
    merged, emitted = seen.emitted.merged, seen.emitted
    return {
        "num_tokens": merged.num_tokens,
        "tokens": merged.tokens,
        "token_box": merged.token_box,
        "token_patches": merged.token_patches,
        "assignment": merged.assignment,
        "timestamps": emitted.timestamps[::step],
        "frame_indices": emitted.numbers,
        "thresholds_applied": merged.thresholds,
    }


def _no_arrays(bundle: Bundle) -> dict[str, Any]:
    """Arrays of the same dtypes and numbers of dimensions, without a row: engines take columns of one kind only."""
    dtypes = {tensor.name: tensor.dtype for tensor in bundle.graph(TOKEN_MERGER).outputs}
    return {
        "num_tokens": 0,
        "tokens": np.zeros((0, bundle.merge.channels), dtypes["tokens"]),
        "token_box": np.zeros((0, 5), np.int32),
        "token_patches": np.zeros(0, np.int32),
        "assignment": np.zeros((0, bundle.merge.cells), np.int32),
        "timestamps": np.zeros(0, np.float64),
        "frame_indices": np.zeros(0, np.int64),
        "thresholds_applied": np.zeros(0, np.float32),
    }


def _column(name: str, rows: Sequence[Any]) -> NDArray[Any]:
    """Rows as one column; of text, and of arrays that differ in length, one of objects."""
    if name == "num_tokens":
        return np.array(rows, np.int32)
    column = np.empty(len(rows), object)
    for place, row in enumerate(rows):
        column[place] = row
    return column
