"""Opening a stream or a camera of this machine with FFmpeg, so that a peer that is dead is noticed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sttm_export.runtime.probe import readable_formats
from sttm_export.streams.address import Address

OPENING = 3.0
"""Opening, and finding out what a stream holds, may take so many times as long as waiting for data."""
# What FFmpeg may speak on the way to each kind of address; nothing that a stream names leads anywhere else.
_PROTOCOLS = {
    **dict.fromkeys(("rtsp", "rtsps"), "rtsp,rtsps,rtp,udp,tcp,tls"),
    **dict.fromkeys(("http", "https"), "http,https,httpproxy,tcp,tls"),
    "tcp": "tcp",
    "udp": "udp",
}
# Formats without times: FFmpeg counts 25 frames a second, whatever comes.
_WITHOUT_CLOCK = {"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "mpegvideo", "av1", "obu", "vvc"}


class BrokenOff(Exception):
    """A source could not be opened, or read any further; the message is the reason, in a few words."""


@contextmanager
def open_live(address: Address, timeout: float, transport: str = "tcp") -> Iterator[tuple[Any, Any, bool]]:
    """Yield (PyAV container, its first video stream, whether its times are a clock).

    Args:
        address: on the network, or a device.
        timeout: seconds without data after which the peer counts as dead.
        transport: of RTSP's pictures: `tcp` or `udp`.

    Raises:
        BrokenOff: it cannot be opened, or holds no picture.
    """
    import av

    device = address.kind == "device"
    options = {} if device else _options(address.scheme, transport)
    form = "v4l2" if device else None
    start, most = time.monotonic(), OPENING * timeout
    try:
        container = av.open(address.text, format=form, options=options, timeout=(most, timeout))
    except (av.error.FFmpegError, UnicodeError) as error:
        # Without its cause, whose text holds the address and with it a password.
        late = time.monotonic() - start >= most
        raise BrokenOff(f"it did not answer within {most:g} s" if late else reason_of(error, timeout)) from None
    with container:
        if not container.streams.video:
            raise BrokenOff("it holds no video")
        stream = container.streams.video[0]
        # Threads over whole frames would hold back as many frames as there are threads.
        stream.thread_type = "SLICE"
        yield container, stream, container.format.name not in _WITHOUT_CLOCK


def reason_of(error: BaseException, timeout: float) -> str:
    """Why FFmpeg failed, in a few words, without the address.

    Args:
        error: as PyAV raised it.
        timeout: seconds that it was given.
    """
    import av

    if isinstance(error, av.error.ExitError):
        return f"nothing came for {timeout:g} s"
    return str(getattr(error, "strerror", "") or type(error).__name__)


def _options(scheme: str, transport: str) -> dict[str, str]:
    # Nothing here looks at the rate that FFmpeg would guess from seconds of pictures before it gives the first one.
    options = {"protocol_whitelist": _PROTOCOLS[scheme], "fpsprobesize": "0"}
    if scheme in {"rtsp", "rtsps"}:
        return options | {"rtsp_transport": transport, "allowed_media_types": "video"}
    # A stream that lists other addresses is no stream; see `readable_formats`.
    options["format_whitelist"] = f"{readable_formats()},mpjpeg"
    if scheme == "udp":
        options["overrun_nonfatal"] = "1"  # a burst that overruns the buffer damages frames, and ends nothing
    return options
