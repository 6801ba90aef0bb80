"""Decoding the sampled frames of a video, one at a time.

Frames are chosen by INDEX, as the published evaluation does. In a video of variable frame rate equal steps of index are
not equal steps of time; `timestamps` therefore are the real presentation times of the frames, counted from the first.

A file that breaks off is decoded as far as it goes: the sample is drawn from the frames that can be decoded, and
`Video.note` says so. Only a file without a single decodable frame is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.model import SamplingSpec
from sttm_export.errors import UserError
from sttm_export.runtime import sampling
from sttm_export.runtime.frame import Frame
from sttm_export.runtime.probe import VideoInfo, open_video, probe
from sttm_export.system import free_memory, size_text

Sampler = Callable[[VideoInfo], list[int]]
# [n, h, w, 3], or n of [h, w, 3] where the video changes its size.
Pictures = NDArray[np.uint8] | list[NDArray[np.uint8]]


@dataclass(frozen=True)
class Video:
    """The sampled frames of a clip."""

    frames: Pictures  # upright RGB; the model sees each frame resized to its own square, whatever size it has
    timestamps: NDArray[np.float64]  # [n], seconds after the first frame of the video
    indices: NDArray[np.int64]  # [n], index of each frame in the video
    info: VideoInfo
    note: str = ""  # one sentence when the file was damaged or changes its size


def published_sampler(fps: float, max_frames: int) -> Sampler:
    """Return the sampler of the published evaluation (see `sampling.published`)."""
    return lambda info: sampling.published(info.frames, info.fps, fps, max_frames)


def uniform_sampler(count: int) -> Sampler:
    """Return a sampler of `count` frames spread evenly over the clip (see `sampling.uniform`)."""
    return lambda info: sampling.uniform(info.frames, count)


def read_video(path: str | Path, sampler: Sampler) -> Video:
    """Decode the frames that `sampler` chooses; only those are held in memory.

    Raises:
        UserError: a file that is no readable video (see `open_video`), or not one frame of which can be decoded.
    """
    info = probe(path)
    wanted = sampler(info)
    _check_memory(info, len(wanted))
    frames, decoded = _collect(path, wanted)
    # The sample reaches to the last frame, so a decoder that got there has shown that the file is whole.
    usable = info.frames if decoded > max(wanted) else decoded
    note = _note(info, usable)
    if usable < info.frames:
        # Draw again from what can be decoded, so that the frames still spread over the usable clip.
        info = replace(info, frames=usable, declared_frames=max(info.frames, info.declared_frames))
        frames, _ = _collect(path, sampler(info))
    pictures, sizes = [frame.rgb for frame in frames], {frame.rgb.shape for frame in frames}
    if len(sizes) > 1:
        shown = ", ".join(f"{width}×{height}" for height, width, _ in sorted(sizes))
        note = f"{note} {path} changes its size ({shown}); each frame was resized from its own.".lstrip()
    return Video(
        frames=np.stack(pictures) if len(sizes) == 1 else pictures,
        timestamps=np.array([frame.time for frame in frames]),
        indices=np.array([frame.number for frame in frames]),
        info=info,
        note=note,
    )


def read_sampled(path: str | Path, sampling: SamplingSpec, fps: float | None, most: int) -> Video:
    """Decode the frames that a graph looks at: as the model was evaluated, but no more than the graph takes.

    Args:
        path: of the video.
        sampling: of the model.
        fps: frames a second, instead of the model's; None leaves those.
        most: frames that the graph takes.

    Raises:
        UserError: as `read_video`.
    """
    return read_video(path, published_sampler(fps or sampling.fps, min(sampling.max_frames, most)))


def _collect(path: str | Path, indices: Sequence[int]) -> tuple[list[Frame], int]:
    """Return the wanted frames, and how many frames were decoded on the way to the last of them."""
    wanted, frames, decoded = set(indices), [], 0
    for number, frame, time in _decode(path, max(wanted)):
        decoded = number + 1
        if number in wanted:
            frames.append(Frame(number, time, upright(frame)))
    if decoded == 0:
        raise UserError(f"Not one frame of {path} can be decoded: the file is damaged; give a video that plays.")
    return frames, decoded


def _decode(path: str | Path, last: int) -> Iterator[tuple[int, Any, float]]:
    import av

    with open_video(path) as (container, stream):
        pull = partial(next, container.decode(stream), None)
        start, number = 0.0, 0
        while number <= last:
            try:
                frame = pull()
            except av.error.FFmpegError:
                return
            if frame is None:
                return
            time = frame_time(frame, stream, number)
            start = time if number == 0 else start
            yield number, frame, time - start
            number += 1


def frame_time(frame: Any, stream: Any, number: int) -> float:
    """Presentation time of a PyAV frame in seconds; of one that has none, as its number and the stream's rate say."""
    return float(frame.time) if frame.time is not None else number / float(stream.guessed_rate or 25)


def upright(frame: Any) -> NDArray[np.uint8]:
    """RGB of a PyAV frame, [h, w, 3], with the rotation of the container's display matrix undone.

    Only quarter turns occur in practice.
    """
    rgb: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise degrees, as rot90 counts
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def _check_memory(info: VideoInfo, count: int) -> None:
    """Refuse frames that memory cannot hold; twice, as they are collected one by one and then put together."""
    need, free = 2 * 3 * info.width * info.height * count, free_memory()
    if free is not None and need > free:
        raise UserError(
            f"{count} frames of {info.width}×{info.height} need about {size_text(need)} of memory and "
            f"{size_text(free)} are free; give a smaller video, or fewer frames with a lower --fps."
        )


def _note(info: VideoInfo, decoded: int) -> str:
    promised = max(info.frames, info.declared_frames)
    if decoded >= promised:
        return ""
    return (
        f"{info.path} breaks off: {decoded} of {promised} frames can be decoded, and the sample was drawn from those."
    )
