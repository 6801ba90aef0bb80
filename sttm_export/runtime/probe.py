"""What a video file holds, found by reading its packets, without decoding a picture."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from sttm_export.errors import UserError

# What FFmpeg itself assumes for streams that carry no timing.
FALLBACK_FPS = Fraction(25)
# FFmpeg opens any text file as an animation of a terminal.
_TEXT_FORMATS = {"tty"}
# Formats that name other files or hosts, run a script or are a device: a video here is one file.
_ELSEWHERE = {
    *("concat", "dash", "ffmetadata", "hls", "image2", "image2pipe", "imf", "ivr", "lavfi", "mpjpeg", "realtext"),
    *("rtp", "rtsp", "sap", "sdp", "avisynth", "vapoursynth", "webm_dash_manifest", "vobsub"),
    *("alsa", "fbdev", "kmsgrab", "oss", "x11grab", "video4linux2", "v4l2"),
}
# First bytes of lists of other files, which get a sentence of their own.
_LISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"<Smooth", b"v=0", b"[playlist]", b"[Reference]")


@dataclass(frozen=True)
class VideoInfo:
    """Facts of a video's first real video stream."""

    path: str
    width: int  # in pixels, as coded: before rotation
    height: int
    frames: int  # found in the file
    declared_frames: int  # that the header promises; 0 when it does not say
    fps: Fraction  # average rate, frames a second

    @property
    def duration(self) -> float:
        """Seconds that the video lasts, as the published evaluation has them: frames over their average rate."""
        return float(self.frames / self.fps)


def probe(path: str | Path) -> VideoInfo:
    """Count frames and read rates by demuxing.

    Raises:
        UserError: missing file, directory, no video in it, or nothing that can be read.
    """
    with open_video(path) as (container, stream):
        stamps, coded = _packet_times(container, stream), stream.codec_context
        fps = _frame_rate(stream, [s for s in stamps if s is not None])
        info = VideoInfo(str(path), coded.width, coded.height, len(stamps), stream.frames, fps)
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
    # `file:` keeps FFmpeg from reading `12:30.mp4` as a protocol, and the white lists from following what a file names.
    options = {"protocol_whitelist": "file", "format_whitelist": readable_formats()}
    try:
        container = av.open(f"file:{file.absolute()}", options=options)
    except (av.error.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", "") or type(error).__name__
        raise UserError(
            f"{path} cannot be read as a video ({reason}): it is another kind of file, damaged or cut off; "
            "give a video that plays, such as an MP4."
        ) from error
    with container:
        yield container, _video_stream(container, path)


def _check_file(file: Path) -> None:
    """Refuse what is no regular file before it is opened: a FIFO or a device can wait for ever."""
    try:
        mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{file} is a directory; give one video file.")
        if not stat.S_ISREG(mode):
            raise UserError(f"{file} is no regular file; save the video to a file and give that.")
        with file.open("rb") as handle:
            head = handle.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"There is no video at {file}; check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Cannot read {file}: {reason}; give a video file that you may read.") from error
    if not head:
        raise UserError(f"{file} is empty (0 bytes); copy or download the video again.")
    if head.startswith(_LISTS):
        raise UserError(f"{file} is a list that refers to other files, not a video; give the video file itself.")


@cache
def readable_formats() -> str:
    """FFmpeg's names of the formats that may be read, joined as its option wants them."""
    import av

    return ",".join(sorted({part for name in av.formats_available for part in name.split(",")} - _ELSEWHERE))


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


def _frame_rate(stream: Any, times: list[float]) -> Fraction:
    """As the container says, else as the timestamps do."""
    if rate := stream.average_rate or stream.guessed_rate:
        return Fraction(rate)
    span = max(times) - min(times) if times else 0.0
    return Fraction((len(times) - 1) / span).limit_denominator(100_000) if span > 0 else FALLBACK_FPS
