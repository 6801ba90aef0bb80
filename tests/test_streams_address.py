"""What `--source` may name, and that a password is never shown."""

import pytest

from sttm_export.errors import UserError
from sttm_export.streams.address import read_address


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("rtsp://10.0.0.5/stream1", "network", "rtsp://10.0.0.5/stream1"),
        ("rtsp://me:p%40ss@10.0.0.5:554/a", "network", "rtsp://me:***@10.0.0.5:554/a"),
        ("rtsp://me:a:b@10.0.0.5/a", "network", "rtsp://me:***@10.0.0.5/a"),
        ("rtsp://me:a@b@10.0.0.5/a", "network", "rtsp://me:***@10.0.0.5/a"),
        ("rtsp://:secret@10.0.0.5/a", "network", "rtsp://:***@10.0.0.5/a"),
        ("rtsp://me@10.0.0.5/a", "network", "rtsp://me@10.0.0.5/a"),
        ("HTTPS://cam.example/x.ts?token=secret#secret", "network", "https://cam.example/x.ts?…"),
        ("http://[::1]:8080/x.ts", "network", "http://[::1]:8080/x.ts"),
        ("tcp://me:secret@[fe80::1]:1", "network", "tcp://me:***@[fe80::1]:1"),
        ("udp://239.0.0.1:1234", "network", "udp://239.0.0.1:1234"),
        ("udp://@:1234", "network", "udp://:1234"),
        ("/dev/zero", "device", "/dev/zero"),
        ("clip.mp4", "file", "clip.mp4"),
        ("a:b.mp4", "file", "a:b.mp4"),
    ],
)
def test_kinds(text, kind, shown):
    address = read_address(text)
    assert (address.kind, address.text, address.shown) == (kind, text, shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtmp://me:secret@x/y", "Sources cannot be read by 'rtmp://'.*Did you mean 'rtsp'"),
        ("file:///secret.mp4", "give the path alone"),
        ("rtsp://", "names no host"),
        ("rtsp://me:secret@/a", r"rtsp://me:\*\*\*@/a names no host"),
        ("rtsp://me:secret@[::1/a", "cannot be read; write rtsp://HOST:PORT/PATH"),
        ("rtsp://me:secret@x:99999/a", "cannot be read"),
        ("rtsp://me:secret@x:port/a", "cannot be read"),
        ("rtsp://me:secret@x/a b", "holds a space or a control character"),
        ("rtsp://me:secret@x/\x1b[2J", "holds a space or a control character"),
        ("/dev/video99", "There is no camera at /dev/video99"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message) as error:
        read_address(text)
    assert "secret" not in str(error.value)
