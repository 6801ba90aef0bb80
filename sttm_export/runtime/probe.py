"""What a video file holds, found by reading its packets, without decoding a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from sttm_export.errors import UserError

# What FFmpeg itself assumes for streams that carry no timing.
FALLBACK_FPS = Fraction(25)
# FFmpeg opens any text file as an animation of a terminal.
_TEXT_FORMATS = {"tty"}


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a video's first real video stream.

    Attributes:
        path: the file.
        container: FFmpeg's name of the container format.
        codec: FFmpeg's name of the codec.
        width: coded width in pixels, before rotation.
        height: coded height in pixels, before rotation.
        frames: frames found in the file.
        declared_frames: frames the header promises; 0 when it does not say.
        fps: average frame rate, frames a second.
        fps_source: `container`, `timestamps` or `assumed`.
        variable_rate: whether the distances between frames differ by more than half a frame.
    """

    path: str
    container: str
    codec: str
    width: int
    height: int
    frames: int
    declared_frames: int
    fps: Fraction
    fps_source: str
    variable_rate: bool

    @property
    def truncated(self) -> bool:
        """Whether the file holds fewer frames than its header promises."""
        return self.frames < self.declared_frames


def probe(path: str | Path) -> VideoInfo:
    """Count frames and read rates by demuxing.

    Raises:
        UserError: missing file, directory, no video in it, or nothing that can be read.
    """
    with open_video(path) as (container, stream):
        stamps = _packet_times(container, stream)
        fps, source = _frame_rate(stream, [s for s in stamps if s is not None])
        info = VideoInfo(
            path=str(path),
            container=container.format.name,
            codec=stream.codec_context.name,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            frames=len(stamps),
            declared_frames=stream.frames,
            fps=fps,
            fps_source=source,
            variable_rate=_is_variable([s for s in stamps if s is not None], fps),
        )
    if info.frames == 0:
        raise UserError(f"{path} holds a video stream without a single frame; give a video that plays.")
    return info


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a file for reading and yield (PyAV container, its first video stream that is no cover picture).

    Raises:
        UserError: missing file, directory, not a video, sound only, empty or damaged.
    """
    import av

    file = Path(path)
    _check_file(file)
    try:
        container = av.open(str(file))
    except av.error.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"{path} cannot be read as a video ({reason}): it is another kind of file, damaged or cut off; "
            "give a video that plays, such as an MP4."
        ) from error
    with container:
        yield container, _video_stream(container, path)


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise UserError(f"{file} is a directory; give one video file.")
    if not file.exists():
        raise UserError(f"There is no video at {file}; check the path.")
    try:
        with file.open("rb") as handle:
            empty = not handle.read(1)
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror}; give a video file that you may read.") from error
    if empty:
        raise UserError(f"{file} is empty (0 bytes); copy or download the video again.")


def _video_stream(container: Any, path: str | Path) -> Any:
    from av.stream import Disposition

    if container.format.name in _TEXT_FORMATS:
        raise UserError(f"{path} is a text file, not a video; give a video that plays, such as an MP4.")
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            # Frame threading decodes several pictures at once; its queue holds a handful of frames, not the clip.
            stream.thread_type = "AUTO"
            return stream
    what = "only sound" if container.streams.audio else "no video stream"
    raise UserError(f"{path} holds {what}; give a file with a picture in it.")


def _packet_times(container: Any, stream: Any) -> list[float | None]:
    """Presentation time of each packet in seconds; a damaged tail ends the list."""
    import av

    times: list[float | None] = []
    try:
        # A generator, so that what was read before an error stays in the list.
        packets = (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)
        times.extend(None if packet.pts is None else float(packet.pts * packet.time_base) for packet in packets)
    except av.error.FFmpegError:
        pass  # what came before the damage counts; the decoder meets the same end and tells
    return times


def _frame_rate(stream: Any, times: list[float]) -> tuple[Fraction, str]:
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate:
            return Fraction(rate), "container"
    span = max(times) - min(times) if times else 0.0
    if span > 0:
        return Fraction((len(times) - 1) / span).limit_denominator(100_000), "timestamps"
    return FALLBACK_FPS, "assumed"


def _is_variable(times: list[float], fps: Fraction) -> bool:
    ordered = sorted(times)
    steps = [b - a for a, b in pairwise(ordered)]
    return bool(steps) and max(steps) - min(steps) > 0.5 / float(fps)
