"""Raw frames: exactly as many bytes as a frame has, however they come, and an end in mid-frame that is said."""

import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm_export.errors import UserError
from sttm_export.streams.raw import RawSource, parse_size

RATE = 30000 / 1001


def noise(count, height, width, depth=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, depth), dtype=np.uint8)


def written(path, data):
    path.write_bytes(data)
    return path.open("rb", buffering=0)


def test_frames_of_a_file(tmp_path):
    sent = noise(5, 6, 4)
    with written(tmp_path / "raw", sent.tobytes()) as file:
        found = list(RawSource(file, 4, 6, RATE).frames())
    assert [frame.number for frame in found] == list(range(5))
    assert [frame.time for frame in found] == [number / RATE for number in range(5)]
    np.testing.assert_array_equal([frame.rgb for frame in found], sent)
    assert all(frame.rgb.dtype == np.uint8 for frame in found)


@pytest.mark.parametrize(
    ("name", "depth", "order"),
    [
        ("rgb24", 3, [0, 1, 2]),
        ("bgr24", 3, [2, 1, 0]),
        ("rgba", 4, [0, 1, 2]),
        ("RGBx", 4, [0, 1, 2]),
        ("bgra", 4, [2, 1, 0]),
        ("bgr0", 4, [2, 1, 0]),
        ("BGRx", 4, [2, 1, 0]),
    ],
)
def test_red_green_and_blue_stand_where_the_format_has_them(tmp_path, name, depth, order):
    sent = noise(2, 3, 5, depth)
    with written(tmp_path / "raw", sent.tobytes()) as file:
        found = list(RawSource(file, 5, 3, 1, name).frames())
    np.testing.assert_array_equal([frame.rgb for frame in found], sent[..., order])


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 70])
@pytest.mark.parametrize(("name", "order"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_rows_of_gstreamer_are_filled_up_to_whole_words(tmp_path, name, order, width):
    """`videotestsrc ! video/x-raw,format=RGB,width=70,height=4 ! fdsink` of GStreamer 1.22 gives 848 bytes a frame."""
    sent = noise(3, 4, width)
    rows = sent.reshape(3, 4, width * 3)
    filled = np.pad(rows, [(0, 0), (0, 0), (0, -rows.shape[2] % 4)], constant_values=99)
    assert width != 70 or filled[0].nbytes == 848
    with written(tmp_path / "raw", filled.tobytes()) as file:
        found = list(RawSource(file, width, 4, 1, name).frames())
    np.testing.assert_array_equal([frame.rgb for frame in found], sent[..., order])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.integers(1, 7), st.integers(1, 7))
def test_whatever_pieces_a_pipe_gives(pieces, height, width):
    sent = noise(4, height, width)
    data = sent.tobytes()
    reading, writing = os.pipe()

    def write():
        left, turn = data, 0
        while left:
            size = pieces[turn % len(pieces)]
            os.write(writing, left[:size])
            left, turn = left[size:], turn + 1
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb", buffering=0) as file:
        found = [frame.rgb for frame in RawSource(file, width, height, 1).frames()]
    thread.join()
    np.testing.assert_array_equal(found, sent)


def test_each_frame_has_memory_of_its_own(tmp_path):
    """Some wait while others are read."""
    with written(tmp_path / "raw", noise(2, 3, 3).tobytes()) as file:
        first, second = RawSource(file, 3, 3, 1).frames()
    assert not np.shares_memory(first.rgb, second.rgb)


def test_an_end_in_mid_frame_comes_after_the_whole_frames(tmp_path):
    with written(tmp_path / "raw", noise(3, 6, 4).tobytes()[:-10]) as file:
        frames = RawSource(file, 4, 6, 1, "rgb24").frames()
        assert [next(frames).number for _ in range(2)] == [0, 1]
        with pytest.raises(
            UserError, match=r"62 of 72 bytes after 2 whole frames, which were used.*4x6 in rgb24.*--size"
        ):
            next(frames)


def test_nothing_came(tmp_path):
    with written(tmp_path / "raw", b"") as file, pytest.raises(UserError, match=r"No frame came.*6x4 in rgb24"):
        list(RawSource(file, 6, 4, 1).frames())


@pytest.mark.parametrize("sent", [0, 5])
def test_closing_ends_a_reader_that_waits(sent):
    reading, writing = os.pipe()
    os.write(writing, bytes(sent))
    with os.fdopen(reading, "rb", buffering=0) as file:
        source, found = RawSource(file, 4, 6, 1), []
        thread = threading.Thread(target=lambda: found.extend(source.frames()))
        thread.start()
        time.sleep(0.05)
        assert thread.is_alive()
        source.close()
        source.close()
        thread.join(5)
        assert not thread.is_alive()
    os.close(writing)
    assert found == []
    assert source.waits
    assert not RawSource(None, 4, 6, 1, waits=False).waits
    assert source.counters == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "Frames of 0x6"),
        ({"height": 16385}, "sides from 1 to 16384"),
        ({"rate": 0}, "0 frames a second"),
        ({"rate": float("nan")}, "nan frames a second"),
        ({"rate": float("inf")}, "inf frames a second"),
        ({"pixel_format": "rgb25"}, "no pixel format 'rgb25'. Did you mean 'rgb24'"),
        ({"pixel_format": "nv12"}, r"no pixel format 'nv12'.*Valid: BGR, BGRA,"),
    ],
)
def test_what_is_not_possible(options, message):
    with pytest.raises(UserError, match=message):
        RawSource(None, **{"width": 4, "height": 6, "rate": 1, **options})


def test_sizes():
    assert parse_size("1920x1080") == parse_size(" 1920X1080") == parse_size("1920×1080") == (1920, 1080)
    for text in ("1920", "1920x", "x", "-1x4", "1920x1080x3", "1920*1080", "", "٣x٣"):
        with pytest.raises(UserError, match="is no size; give width and height"):
            parse_size(text)
