"""A video that was read, in a file: keys and values of the slots that it takes, and what they belong to.

A safetensors file, whose metadata has one key: `sttm-export`, a record (`About`) as JSON, which also has a sha256 over
itself and every tensor. (Several keys would come in any order, and the same video would give other bytes.) Keys and
values mean something only to the very graphs that made them, so the record names the bundle by the sha256 of its
manifest. What a file holds follows from record and bundle; anything else is refused unread.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from sttm_export import __version__
from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.contracts.recipe import Recipe
from sttm_export.contracts.records import Count, Dimension, Range, read_record
from sttm_export.errors import UserError, first_line
from sttm_export.language.model import Watched
from sttm_export.runtime.session import Arrays

FORMAT = 1
_ABOUT, _CELLS = "sttm-export", "cells"
_DTYPES = {"F32": "float32", "F16": "float16", "I32": "int32"}
_WRITTEN = "give a file that `sttm-export ask --save-kv` wrote with this bundle"
_LONGEST_ABOUT = 2**22
Seconds = Annotated[float, Range(-1e12, 1e12)]


@dataclass(frozen=True)
class About:
    """What keys and values belong to."""

    format: int
    program: str
    bundle: str  # sha256 of its manifest
    model: str  # name
    video: str  # name of the file
    duration: Seconds
    timestamps: tuple[Seconds, ...]  # of the frames that were looked at
    before: tuple[Count, ...]  # ids of the text before the video
    behind: tuple[Count, ...]  # ids of the text behind it that every question shares
    frames: Dimension  # T', steps of the video
    tokens: Dimension  # n, that its cells merged to
    sha256: str = ""  # over all of this, and every tensor

    @classmethod
    def of(cls, **values: Any) -> About:
        """Add what is the same for all."""
        return cls(FORMAT, f"sttm-export {__version__}", **values)


def pack(about: About, recipe: Recipe, watched: Watched, state: Mapping[str, Arrays]) -> bytes:
    """Return the bytes of a file.

    Args:
        about: what it belongs to.
        recipe: of the bundle.
        watched: what the language model says of the video.
        state: keys and values of every group, by the name of its graph; slots behind those in use are left out.
    """
    from safetensors.numpy import save

    tensors: Arrays = {_CELLS: watched.cells.astype(np.int32)}
    for graph, used in _groups(recipe, about):
        for tensor in graph.kept:
            tensors[tensor.name] = np.ascontiguousarray(state[graph.name][tensor.name][:, :used])
    summed = dataclasses.replace(about, sha256=digest(about, tensors))
    made: bytes = save(tensors, {_ABOUT: json.dumps(dataclasses.asdict(summed))})
    return made


class KeptVideo:
    """A file whose record fits a bundle; its tensors are read when they are asked for.

    Args:
        path: of the file.
        recipe: of the bundle.
        manifest: sha256 of the bundle's manifest.

    Raises:
        UserError: no such file, damaged, of another bundle or model, or with other tensors than its record says.
    """

    def __init__(self, path: Path, recipe: Recipe, manifest: str) -> None:
        self._path, self._recipe = path, recipe
        # Held open, so that what is read is what was checked.
        self._file = self._open()
        self.about = self._read_about()
        self._check_origin(manifest)
        self._check_tensors()

    def read(self) -> tuple[Watched, dict[str, Arrays]]:
        """Return what the language model says of the video, and keys and values of every group by its graph.

        Slots that the video does not take are zeros.

        Raises:
            UserError: the file was changed after it was written.
        """
        about = self.about
        tensors: Arrays = {row.name: self._file.get_tensor(row.name) for row in _expected(self._recipe, about)}
        cells = tensors[_CELLS].astype(np.int64)
        if digest(about, tensors) != about.sha256 or not self._possible(tensors[_CELLS]):
            raise self._refused("was changed after it was written: its sha256 is not the recorded one")
        watched = Watched(len(about.before), about.frames, cells, len(about.behind))
        state = {
            graph.name: {tensor.name: _widened(tensor, tensors[tensor.name]) for tensor in graph.kept}
            for graph, _ in _groups(self._recipe, about)
        }
        return watched, state

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open

        if not self._path.is_file():
            what = "is no regular file" if self._path.exists() else "is not there"
            raise self._refused(what)
        try:
            return safe_open(self._path, framework="np")
        except (SafetensorError, OSError, ValueError) as error:
            raise self._refused(f"is damaged or no safetensors file ({first_line(error)})") from error

    def _read_about(self) -> About:
        text = (self._file.metadata() or {}).get(_ABOUT, "")
        faults: list[str] = []
        try:
            data = json.loads(text) if len(text) <= _LONGEST_ABOUT else None
        except (ValueError, RecursionError):
            data = None
        if isinstance(data, dict) and data.get("format") != FORMAT:
            raise self._refused(f"has format {data.get('format')!r:.40}, this program reads format {FORMAT}")
        about: About | None = read_record(About, data, faults)
        if about is None:
            raise self._refused(f"does not say what its tensors belong to ({faults[0]})")
        return about

    def _check_origin(self, manifest: str) -> None:
        about, model = self.about, self._recipe.model.name
        if about.model != model:
            raise self._refused(f"is of the model {about.model!r:.60}, and this bundle is of {model!r}")
        if about.bundle != manifest:
            raise self._refused("is of another bundle: the sha256 of the manifest that it names is not this one's")
        merge = self._recipe.merge
        fits = about.frames <= merge.frames and about.tokens <= merge.max_tokens
        if not fits or any(used > graph.kept[0].shape[1] for graph, used in _groups(self._recipe, about)):
            raise self._refused("names a larger video than this bundle takes")

    def _check_tensors(self) -> None:
        """By their declarations; nothing is read yet, so that a large file of somebody else costs nothing."""
        expected = {tensor.name: tensor for tensor in _expected(self._recipe, self.about)}
        if set(self._file.keys()) != set(expected):
            raise self._refused("does not hold the keys and values that it describes")
        for name, tensor in expected.items():
            found = self._file.get_slice(name)
            dtype, shape = _DTYPES.get(found.get_dtype(), found.get_dtype()), tuple(found.get_shape())
            if (dtype, shape) != (tensor.dtype, tensor.shape):
                raise self._refused(
                    f"holds '{name}' as {dtype} {list(shape)}, expected {tensor.dtype} {list(tensor.shape)}"
                )

    def _possible(self, cells: Any) -> bool:
        end = self.about.frames * self._recipe.merge.cells
        return bool(np.all((cells >= 0) & (cells < end)))

    def _refused(self, why: str) -> UserError:
        return UserError(f"The file of keys and values {self._path} {why}; {_WRITTEN}.")


def _groups(recipe: Recipe, about: About) -> Iterator[tuple[GraphSpec, int]]:
    """Every group of layers, and the slots that the video takes in its buffers."""
    text = len(about.before) + len(about.behind)
    for spans, video in ((recipe.below, about.frames * recipe.merge.cells), (recipe.above, about.tokens)):
        for span in spans:
            yield recipe.group_graph(span), text + video


def _expected(recipe: Recipe, about: About) -> Iterator[TensorSpec]:
    """What a file holds."""
    yield TensorSpec(_CELLS, (about.tokens,), "int32", "cell of the video that stands for each token")
    for graph, used in _groups(recipe, about):
        for tensor in graph.kept:
            heads, _, width = tensor.shape
            yield dataclasses.replace(tensor, shape=(heads, used, width))


def _widened(tensor: TensorSpec, used: Any) -> Any:
    buffer = np.zeros(tensor.shape, tensor.dtype)
    buffer[:, : used.shape[1]] = used
    return buffer


def digest(about: About, tensors: Arrays) -> str:
    """Return the sha256 over a record, whatever sum it has now, and tensors."""
    sha = hashlib.sha256(json.dumps(dataclasses.asdict(about) | {"sha256": ""}).encode())
    for name, array in sorted(tensors.items()):
        sha.update(f"\n{name} {array.dtype} {list(array.shape)}\n".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
