"""What is no video, names other files, has no end, or changes in mid-stream; nothing else is opened."""

import os
import socket
import threading
import time

import av
import helpers_runtime as helpers
import numpy as np
import pytest

from sttm_export.contracts.model import PixelSpec
from sttm_export.errors import UserError
from sttm_export.runtime import probe as probing
from sttm_export.runtime import video as videos
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.probe import probe
from sttm_export.runtime.sampling import published
from sttm_export.runtime.video import read_video, uniform_sampler

PIXELS = PixelSpec(56, 56, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def refused(path, words):
    """Refused at once: a thread that hangs would be a hang of the program."""
    found = []

    def look():
        try:
            probe(path)
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it hangs"
    assert found and words in found[0], found


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        server.bind("socket.mp4")
        for name in ("fifo.mp4", "socket.mp4", "/dev/zero", "/dev/null"):
            refused(name, "is no regular file")
    refused(tmp_path, "is a directory")
    refused(tmp_path / "fifo.mp4" / "x", "There is no video at")
    refused(tmp_path / ("x" * 300), "File name too long")
    refused("a\0b", "null byte")


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "http:x.mp4", "concat:a.mp4", "a?b#c.mp4", "%03d.mp4", "-.mp4", "\udcff.mp4"]
)
def test_names_that_look_like_something_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    helpers.write_video(tmp_path / "plain.mp4").rename(tmp_path / name)
    assert probe(name).frames == 12


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n"


@pytest.mark.parametrize(
    "text",
    [
        HLS,
        "\n" + HLS,
        "ffconcat version 1.0\nfile '{}'\n",
        '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>',
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("suffix", [".m3u8", ".mp4"])
def test_lists_are_refused_unread(tmp_path, text, suffix):
    inner = tmp_path / "inner.ts"
    os.mkfifo(inner)  # opening it would hang
    (tmp_path / f"list{suffix}").write_text(text.replace("{}", str(inner)))
    refused(tmp_path / f"list{suffix}", "is a list that refers to other files, not a video")


def test_the_wall_behind_holds_too(tmp_path, monkeypatch):
    """A list that the first bytes do not tell: FFmpeg's white list of formats ends it, without following it."""
    monkeypatch.setattr(probing, "_LISTS", ())
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "inner.ts")
    (tmp_path / "list.m3u8").write_text(HLS.format("inner.ts"))
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile 'inner.ts'\n")
    for name in ("list.m3u8", "list.ffconcat"):
        refused(name, "cannot be read as a video")


def test_no_format_that_needs_no_file_is_allowed():
    allowed = set(probing.readable_formats().split(","))
    assert {"mov", "matroska", "avi", "mpegts"} <= allowed
    for name in allowed & set(av.formats_available):
        try:
            form = av.format.ContainerFormat(name, "r")
        except ValueError:
            continue  # only written
        assert not form.no_file, name


def test_a_size_that_changes_in_mid_stream(tmp_path):
    """Each frame is resized from its own size, as if each were a clip."""
    parts = [
        helpers.write_video(tmp_path / f"{width}.ts", frames=4, width=width, height=48, container="mpegts")
        for width in (64, 96)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    video = read_video(tmp_path / "both.ts", uniform_sampler(8))
    assert {frame.shape for frame in video.frames} == {(48, 64, 3), (48, 96, 3)}
    assert "changes its size (64×48, 96×48); each frame was resized from its own" in video.note
    alone = read_video(parts[1], uniform_sampler(4))
    assert np.array_equal(pixel_values(video.frames, PIXELS)[-1], pixel_values(alone.frames, PIXELS)[-1])


def test_frames_that_memory_cannot_hold(tmp_path, monkeypatch):
    path = helpers.write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(videos, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"4 frames of 64×48 need about 72.0 KiB of memory and 1000 B are free"):
        read_video(path, uniform_sampler(4))


@pytest.mark.parametrize("fps", [1000.0, 1e9, 1e-9, 1e300, 5e-324])
def test_rates_far_from_any_video_take_no_time(fps):
    start = time.monotonic()
    assert published(10**6, 30, fps, 8) == (published(10**6, 30, 30, 8) if fps > 1 else [0, 10**6 - 1])
    assert time.monotonic() - start < 30
