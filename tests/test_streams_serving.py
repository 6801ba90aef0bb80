"""Real streams on the loopback, HTTP and RTSP: they die, fall silent, are damaged, change their size, and come back."""

import itertools
import socket
import threading
import time

import numpy as np
import pytest
from helpers_serving import HttpServer, RtspServer, access_units, collect, free_port, moving, mpegts, resident

from sttm_export.errors import UserError
from sttm_export.streams.address import read_address
from sttm_export.streams.camera import Camera
from sttm_export.streams.video_file import VideoFile

FRAMES = moving(20)
TS = mpegts(FRAMES)
UNITS = access_units(FRAMES)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """The frames as a file of them gives them."""
    path = tmp_path_factory.mktemp("stream") / "a.ts"
    path.write_bytes(TS)
    return [frame.rgb for frame in VideoFile(path, print).frames()]


def short(wait):
    """Pauses take a hundredth, so that tests are short; what was asked for is kept."""

    def made(seconds):
        wait.append(seconds)
        time.sleep(seconds / 100)
        return False

    return made


def camera(url, said, pauses=None, **options):
    wait = short([] if pauses is None else pauses)
    return Camera(read_address(url), said.append, **{"timeout": 0.5, "wait": wait, **options})


@pytest.mark.parametrize("kind", ["http", "rtsp"])
def test_frames_come_through_whole(kind, decoded):
    server = HttpServer([TS]) if kind == "http" else RtspServer(UNITS)
    first = 0 if kind == "http" else 1  # of RTSP the first picture has no time, and is left out
    with server:
        said = []
        frames = collect(camera(server.url(), said), 20 - first)
    assert said == []
    assert [frame.number for frame in frames] == list(range(first, 20))
    assert all(np.array_equal(frame.rgb, rgb) for frame, rgb in zip(frames, decoded[first:], strict=True))
    assert [frame.time for frame in frames] == pytest.approx([0.1 * number for number in range(20 - first)])


def test_a_camera_that_dies_falls_silent_and_comes_back(decoded):
    with RtspServer(UNITS[:12], None, [*UNITS[:8], "hold"], UNITS) as server:
        said, pauses = [], []
        source = camera(server.url("me:secret@"), said, pauses)
        frames = collect(source, 27)
    shown = f"rtsp://me:***@127.0.0.1:{server.port}/door"
    assert said[0] == f"{shown} broke off: the stream ended; try 1 to open it again in 1 s"
    assert said[1].startswith(f"{shown} broke off: ") and said[1].endswith("; try 2 to open it again in 2 s")
    assert said[3] == f"{shown} broke off: nothing came for 0.5 s; try 1 to open it again in 1 s"
    assert [" is back after " in line for line in said] == [False, False, True, False, True]
    assert "secret" not in str(said)
    assert pauses == [1, 2, 1]
    assert source.counters == {"decoded": 30, "corrupt": 0, "reopened": 2}
    assert [frame.number for frame in frames] == [*range(1, 12), *range(13, 20), *range(21, 30)]
    assert all(later.time >= sooner.time for sooner, later in itertools.pairwise(frames))
    expected = [*decoded[1:12], *decoded[1:8], *decoded[1:10]]
    assert all(np.array_equal(frame.rgb, rgb) for frame, rgb in zip(frames, expected, strict=True))


def test_a_server_that_is_gone_and_comes_back():
    """Nobody listens for a while; the same port then does."""
    first = HttpServer([TS])
    said, more = [], []

    def wait(seconds):
        if len(said) == 2:
            more.append(HttpServer([TS], port=first.port))
        return False

    source = camera(first.url(), said, wait=wait)
    frames = source.frames()
    got = [next(frames) for _ in range(3)]
    first.stop()
    got += [next(frames) for _ in range(30)]
    source.close()
    more[0].stop()
    assert [frame.number for frame in got] == list(range(33))
    assert "Connection refused; try 2" in said[1]
    assert source.counters["reopened"] == 1


def test_what_cannot_be_opened_is_an_error_at_once():
    port = free_port()
    for url, reason in (
        (f"rtsp://me:secret@127.0.0.1:{port}/a", "Connection refused"),
        (f"http://me:secret@127.0.0.1:{port}/a?key=secret", "Connection refused"),
        (f"tcp://127.0.0.1:{port}", "Connection refused"),
    ):
        with pytest.raises(UserError, match=f"Cannot open .*{reason}; check the address") as error:
            collect(camera(url, []))
        assert "secret" not in str(error.value)


def test_a_peer_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(UserError, match=r"it did not answer within 1\.5 s"):
            collect(camera(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/a", []))
        assert time.monotonic() - start < 6


LISTS = (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", b"ffconcat version 1.0\nfile a.ts\n")


@pytest.mark.parametrize("text", LISTS)
def test_lists_of_other_addresses_are_not_followed(text):
    with HttpServer([text]) as server, pytest.raises(UserError, match="Cannot open"):
        collect(camera(server.url("a.m3u8"), []))
    assert len(server.requests) == 1


def test_damage_on_the_way_is_left_out_and_counted(decoded):
    with RtspServer([*UNITS[:4], "damage", *UNITS[4:], "hold"]) as server:
        source = camera(server.url(), [])
        frames = collect(source, 16)
    assert source.counters["corrupt"] >= 1
    known = {rgb.tobytes() for rgb in decoded}
    assert sum(frame.rgb.tobytes() in known for frame in frames) >= 15


def test_a_size_that_changes_in_mid_stream():
    said, other = [], access_units(moving(8, 96, 32))
    with RtspServer([*UNITS[:8], *other]) as server:
        frames = collect(camera(server.url(), said), 15)
    assert [frame.rgb.shape for frame in frames] == [(48, 64, 3)] * 7 + [(32, 96, 3)] * 8
    assert [line for line in said if "changes its size from 64×48 to 96×32" in line] == said


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_mpegts_without_more(scheme):
    """As `ffmpeg -f mpegts udp://HOST:PORT` sends it."""
    port, frames, ended = free_port(), [], threading.Event()

    def send_datagrams():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not ended.wait(0.02):
                for start in range(0, len(TS), 1316):
                    sender.sendto(TS[start : start + 1316], ("127.0.0.1", port))

    def send_stream(server):
        with server.accept()[0] as connection:
            connection.sendall(TS)
            ended.wait(10)

    if scheme == "udp":
        thread = threading.Thread(target=send_datagrams)
        thread.start()
        frames = collect(camera(f"udp://127.0.0.1:{port}", [], timeout=5), 10)
    else:
        with socket.create_server(("127.0.0.1", port)) as server:
            thread = threading.Thread(target=send_stream, args=(server,))
            thread.start()
            frames = collect(camera(f"tcp://127.0.0.1:{port}", []), 10)
    ended.set()
    thread.join()
    assert len(frames) == 10
    assert frames[0].rgb.shape == (48, 64, 3)


def test_closing_while_nothing_comes():
    """A reader that waits for data ends when its patience does, at the latest."""
    with RtspServer([*UNITS[:4], "hold"]) as server:
        source, found = camera(server.url(), [], timeout=1.0), []
        thread = threading.Thread(target=lambda: found.extend(source.frames()))
        thread.start()
        time.sleep(0.3)
        source.close()
        thread.join(5)
        assert not thread.is_alive()


def test_reopening_takes_no_memory():
    """300 connections that each give four frames and break off."""
    with HttpServer([TS[: len(TS) // 4]]) as server:
        sizes = []
        source = camera(server.url(), [], wait=lambda seconds: sizes.append(resident()) or len(sizes) == 300)
        assert sum(1 for _ in source.frames()) >= 300
    # A decoder of such frames takes more than 100 KiB: one that stayed each time would be 20 MB and more.
    assert sizes[-1] - sizes[100] < 4 << 20, (sizes[100], sizes[-1])


def test_a_connection_that_stays_takes_no_memory():
    """10,000 pictures over one connection: of a camera at one a second, three hours."""
    with RtspServer(UNITS * 500, rate=10) as server:
        sizes, source, last = {}, camera(server.url(), []), 0.0
        for frame in source.frames():
            assert frame.time >= last
            last = frame.time
            if frame.number % 2000 == 0:
                sizes[frame.number] = resident()
            if frame.number == 9998:
                break
    assert last == pytest.approx(999.7)
    # 32 bytes a picture, as for the whole loop (`test_live_memory`), and pages of the allocator.
    assert sizes[8000] - sizes[2000] < 32 * 6000 + (1 << 20), sizes
