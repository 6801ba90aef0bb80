"""What `--source` names: a stream on the network, a camera of this machine, or a file."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from sttm_export.errors import UserError, did_you_mean

Kind = Literal["network", "device", "file"]
SCHEMES = ("rtsp", "rtsps", "http", "https", "tcp", "udp")


@dataclass(frozen=True)
class Address:
    """Where frames come from."""

    kind: Kind
    text: str  # as it was given, which may hold a password
    shown: str  # to be shown: without password and query

    @property
    def scheme(self) -> str:
        """`rtsp`, …; empty for a device or a file."""
        return self.text.split("://", 1)[0].lower() if self.kind == "network" else ""


def read_address(text: str) -> Address:
    """Tell what a text names; a password in it is never part of a message.

    Raises:
        UserError: a kind of address that cannot be read, one without a host, or no such device.
    """
    if "://" in text:
        return _network(text)
    if text.startswith("/dev/") or _is_device(Path(text)):
        if not _is_device(Path(text)):
            raise UserError(f"There is no camera at {text}; see `ls /dev/video*`, and that it is plugged in.")
        return Address("device", text, text)
    return Address("file", text, text)


def _network(text: str) -> Address:
    scheme = text.split("://", 1)[0].lower()
    if scheme not in SCHEMES:
        what = "give the path alone" if scheme == "file" else f"give another.{did_you_mean(scheme, SCHEMES)}"
        raise UserError(f"Sources cannot be read by '{scheme[:20]}://'; {what.rstrip('.')}.")
    if not text.isprintable() or " " in text:
        raise UserError(f"The {scheme}:// address holds a space or a control character; write it as %20 and so on.")
    try:
        parts = urlsplit(text)
        shown = _shown(parts)
    except ValueError as error:
        raise UserError(f"The {scheme}:// address cannot be read; write {scheme}://HOST:PORT/PATH.") from error
    # udp://:5000 and udp://@:5000 listen on this machine.
    if not parts.hostname and not (scheme == "udp" and parts.port):
        raise UserError(f"{shown} names no host; write {scheme}://HOST:PORT/PATH.")
    return Address("network", text, shown)


def _shown(parts: SplitResult) -> str:
    """A query may hold a token, and what stands behind a `#` as well."""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    user = f"{parts.username}:***@" if parts.password is not None else f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{parts.scheme}://{user}{host}{port}{parts.path}{'?…' if parts.query else ''}"


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode)
    except (OSError, ValueError):
        return False
