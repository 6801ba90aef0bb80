"""Features of videos: frames through a network, kept in a cache, since most of the time goes there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.sources.clip import Clip, Source, read_features
from sttm_export.runtime.video import Pictures, published_sampler, read_video, uniform_sampler

Encode = Callable[[Pictures], NDArray[np.floating]]
"""n frames [h, w, 3] → features [n, H, W, C]."""


def clips(
    source: Source,
    paths: Mapping[str, Path],
    frames: int,
    fps: float | None,
    encode: Callable[[], Encode],
    cache: Path | None,
) -> Iterator[Clip]:
    """Encode frames of every video, in half precision as the cache keeps them.

    Args:
        source: who makes them.
        paths: the videos, by the names of the clips.
        frames: of each, spread evenly; all where a video has fewer. With a rate, the most of them.
        fps: frames a second, sampled as in the published evaluation.
        encode: makes what encodes; not called where the cache has every clip.
        cache: a directory.
    """
    encoder: Encode | None = None
    sampler = uniform_sampler(frames) if fps is None else published_sampler(fps, frames)
    if fps is not None:
        source = replace(source, name=f"{source.name}-{fps:g}fps", title=f"{source.title}, {fps:g} fps")
    for name, path in paths.items():
        kept = cache / f"{source.name}-{frames}-{_digest(path)}.npz" if cache else None
        if kept is not None and kept.is_file():
            yield Clip(source, name, read_features(kept))
            continue
        encoder = encoder or encode()
        features = encoder(read_video(path, sampler).frames).astype(np.float16)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, features=features.transpose(0, 3, 1, 2))
        yield Clip(source, name, features.astype(np.float32))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
