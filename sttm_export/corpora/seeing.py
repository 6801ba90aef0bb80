"""One load, many videos: each is decoded, merged and written, and one that cannot be read says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export import __version__
from sttm_export.bundle.manifest import MANIFEST
from sttm_export.bundle.records import sha256_of
from sttm_export.contracts.merge import Thresholds
from sttm_export.corpora.failed import BadVideoError
from sttm_export.corpora.record import MEMBER, Record, Results, VideoStamp, stamp
from sttm_export.errors import UserError, first_line
from sttm_export.files.whole import written_whole
from sttm_export.pipeline.loader import Loader
from sttm_export.pipeline.resident import Pipeline
from sttm_export.runtime.draw import render_tokens, write_png
from sttm_export.runtime.finiteness import nonfinite
from sttm_export.runtime.merged import write_npz
from sttm_export.runtime.providers import SHORT
from sttm_export.runtime.video import Video
from sttm_export.streams.window import Emitted

# Bytes; `.<name>.npz.partial-<process>-<machine>` must be a name, too.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Seen:
    """A video, and what became of it."""

    video: Video
    emitted: Emitted
    stamp: VideoStamp  # of the file before it was read
    note: str  # a sentence where something is unusual; or empty

    @property
    def num_tokens(self) -> int:
        """Merged tokens."""
        return self.emitted.merged.num_tokens


class Viewer:
    """The graphs of a bundle, loaded for the first video that is to be seen.

    Args:
        loader: loads them.
        thresholds: that the merger is given.
        fps: frames a second to sample; None for the model's.
    """

    def __init__(self, loader: Loader, thresholds: Thresholds, fps: float | None = None) -> None:
        self._loader, self._thresholds, self._fps = loader, thresholds, fps
        self._pipeline: Pipeline | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What results depend on. Versions of ONNX Runtime, drivers and engines are not among it."""
        backend, bundle = self._loader.backend, self._loader.bundle
        return {
            "version of sttm-export": __version__,
            "bundle": sha256_of(bundle.path / MANIFEST),
            "frames a second": self._fps or bundle.model.sampling.fps,
            "thresholds": [self._thresholds.spatial, self._thresholds.temporal],
            "backend": "engines" if backend.engines else SHORT.get(backend.provider.lower(), backend.provider),
        }

    @property
    def pipeline(self) -> Pipeline:
        """The loaded bundle.

        Raises:
            UserError: a graph cannot be loaded.
        """
        if self._pipeline is None:
            self._pipeline = Pipeline(self._loader, self._thresholds)
        return self._pipeline

    def see(self, path: Path) -> Seen:
        """Decode a video and merge its tokens.

        Raises:
            BadVideoError: it cannot be read.
            UserError: a graph cannot be run, which is so for any video.
        """
        before, pipeline = stamp(path), self.pipeline
        video = decoded(lambda: pipeline.decode(path, self._fps), path)
        emitted = pipeline.run(video)
        notes = [video.note]
        if fault := nonfinite(emitted.merged.tokens):
            notes.append(f"The tokens of {path}: {fault}; those mean nothing.")
        # It was decoded, so it was there; should it have vanished since, no content of that name is ever the same.
        return Seen(video, emitted, before or VideoStamp(0, 0), " ".join(filter(None, notes)))

    def write(self, seen: Seen, results: Results, name: str) -> None:
        """Write a result, and a picture if there is to be one, whole.

        Args:
            seen: what is written.
            results: where.
            name: of the video.

        Raises:
            BadVideoError: its name is too long.
            UserError: a directory that cannot be written, or a full disk.
        """
        check_name(name)
        result, picture = results.path(name), results.picture(name)
        _make_directory(result.parent)
        # The result last: where it is, its picture is.
        with written_whole(*([picture] if picture else []), result, shared=True) as files:
            model, emitted = self._loader.bundle.model, seen.emitted
            step, times = model.frames_per_step, emitted.timestamps[:: model.frames_per_step]
            if picture:
                title = f"{model.title}, {Path(name).name}"
                shown = render_tokens(
                    seen.video.frames[::step], emitted.merged, model.grid, timestamps=times, title=title
                )
                write_png(files[0], shown)
            record = Record(results.settings, seen.stamp, seen.num_tokens, self.pipeline.backend, seen.note)
            further = {"timestamps": times, "frame_indices": emitted.numbers, MEMBER: record.to_array()}
            write_npz(files[-1], emitted.merged, **further)

    def close(self) -> None:
        """Free the graphs; the next video would load them again."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None


def decoded(read: Callable[[], Video], path: Path) -> Video:
    """Decode a video by `read`, which is about `path`; whatever goes wrong with it is about this one file.

    Raises:
        BadVideoError: it cannot be read.
    """
    try:
        if os.path.isdir(path):  # noqa: PTH112 - `Path.is_dir` stumbles over names that are too long
            raise UserError(f"{path} is a directory that cannot be looked into; give those who run this the right to.")
        return read()
    except UserError as error:
        raise BadVideoError(str(error)) from error
    except Exception as error:
        # Decoders meet what nobody has foreseen, and one of a million files must not end the work on the others.
        kind = type(error).__name__
        raise BadVideoError(
            f"{path} cannot be decoded ({kind}: {first_line(error)}); give a video that plays."
        ) from error


def check_name(name: str) -> None:
    """Refuse a name that the files beside a video could not be called by.

    Raises:
        BadVideoError: it is too long.
    """
    longest = max(Path(name).parts, key=lambda part: len(os.fsencode(part)))
    if len(os.fsencode(longest)) > _LONGEST_NAME:
        raise BadVideoError(f"The name {longest[:40]}… is too long; rename it to one of at most {_LONGEST_NAME} bytes.")


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make the directory {directory}: {error.strerror or error}; choose an output that is writable."
        ) from error
