"""A camera that breaks off: pauses, what is said, times that never fall, and when it gives up. Time is synthetic."""

import contextlib
import threading

import av
import numpy as np
import pytest
from helpers_serving import collect, free_port, resident
from helpers_streams import Clock

from sttm_export.errors import UserError
from sttm_export.streams.address import read_address
from sttm_export.streams.camera import Camera
from sttm_export.streams.connection import BrokenOff
from sttm_export.streams.pictures import MOST_DAMAGED
from sttm_export.streams.stream_clock import StreamClock

ADDRESS = read_address("rtsp://me:secret@door.example/1?token=also-secret")


class Picture:
    """What PyAV gives, as far as it is looked at."""

    rotation = 0

    def __init__(self, time, size=(4, 2), corrupt=False, key=True):
        self.time, self.is_corrupt, self.width, self.height = time, corrupt, *size
        self.pts, self.key_frame = None if time is None else round(time * 1000), key

    def to_ndarray(self, format):
        assert format == "rgb24"
        return np.zeros((self.height, self.width, 3), np.uint8)


class Packet:
    def __init__(self, *pictures, error=None, corrupt=False):
        self.pictures, self.error, self.is_corrupt, self.size = pictures, error, corrupt, 9
        self.pts = pictures[0].pts if pictures else None

    def decode(self):
        if self.error:
            raise self.error
        return self.pictures


class Stand:
    """Connections that are scripted: a reason why it cannot be opened, or a list of packets, seconds and errors."""

    def __init__(self, *connections, clock=None):
        self.scripts, self.clock, self.opened = connections, clock or Clock(), 0
        self.said, self.pauses = [], []

    @contextlib.contextmanager
    def __call__(self):
        self.opened += 1
        script = self.scripts[self.opened - 1] if self.opened <= len(self.scripts) else "no script is left"
        if isinstance(script, str):
            raise BrokenOff(script)
        yield self, script, True

    def demux(self, script):
        for item in script:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, (int, float)):
                self.clock.now += item
            else:
                yield item

    def camera(self, **options):
        def wait(seconds):
            self.pauses.append(seconds)
            self.clock.now += seconds
            return False

        return Camera(ADDRESS, self.said.append, connect=self, clock=self.clock, wait=wait, **options)


def frames_at(*times, **options):
    return [Packet(Picture(time, **options)) for time in times]


def reset():
    return av.error.ConnectionResetError(104, "Connection reset by peer", "rtsp://me:secret@door.example")


def test_pauses_double_up_to_thirty_seconds():
    stand = Stand(frames_at(0.0), *["refused"] * 8, frames_at(0.0), "refused")
    camera = stand.camera(retries=9)
    with pytest.raises(UserError, match="broke off: no script is left and did not come back in 9 tries"):
        list(camera.frames())
    assert stand.pauses[:9] == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert stand.pauses[9:] == [1, 2, 4, 8, 16, 30, 30, 30, 30]  # frames had come again
    assert camera.counters == {"decoded": 2, "corrupt": 0, "reopened": 1}


def test_every_break_is_said_with_its_reason_and_the_next_try():
    stand = Stand([*frames_at(0.0), reset()], "Connection refused", frames_at(0.0))
    collect(stand.camera(), 2)
    shown = "rtsp://me:***@door.example/1?…"
    assert stand.said == [
        f"{shown} broke off: Connection reset by peer; try 1 to open it again in 1 s",
        f"{shown} broke off: Connection refused; try 2 to open it again in 2 s",
        f"{shown} is back after 3.0 s",
    ]


def test_a_number_of_tries_is_said():
    stand = Stand(frames_at(0.0), frames_at(0.0))
    collect(stand.camera(retries=3), 2)
    assert "try 1 of 3 to open" in stand.said[0]


def test_what_cannot_be_opened_at_first_is_an_error_at_once():
    stand = Stand("Connection refused")
    with pytest.raises(UserError, match=r"Cannot open rtsp://me:\*\*\*@door.example/1\?…: Connection refused; check"):
        list(stand.camera().frames())
    assert stand.pauses == []


def test_without_retries_the_end_is_an_end_and_a_break_an_error():
    assert len(list(Stand(frames_at(0.0, 0.1)).camera(retries=0).frames())) == 2
    stand = Stand([*frames_at(0.0, 0.1), reset()])
    frames = stand.camera(retries=0).frames()
    assert [next(frames).number, next(frames).number] == [0, 1]
    with pytest.raises(UserError, match="broke off: Connection reset by peer; check the source"):
        next(frames)


def test_times_never_fall():
    """Each connection has a clock of its own; the time between is that of this machine."""
    clock = Clock()
    first = [*frames_at(50.0), 0.1, *frames_at(50.1), 0.1, *frames_at(50.2), 3.0, reset()]
    stand = Stand(first, frames_at(7.0, 7.1), clock=clock)
    frames = collect(stand.camera(), 5)
    assert [round(frame.time, 6) for frame in frames] == [0, 0.1, 0.2, 4.2, 4.3]
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        ([(0, 5.0), (1, 6.0), (1, 6.0), (1, 7.0)], [0, 1, 2, 3]),  # the same time twice: two frames are not at once
        ([(0, 5.0), (1, 2.0), (1, 3.0)], [0, 1, 2]),  # set back
        ([(0, 5.0), (1, 1e6), (1, 1e6 + 1)], [0, 1, 2]),  # set forward
        ([(0, 5.0), (60, 65.0)], [0, 60]),  # a slow camera
        ([(0, 5.0), (9, 6.0), (0, 7.0), (0, 13.0)], [0, 1, 2, 8]),  # held back by the network, then all at once
        ([(0, None), (1, None), (1, 9.0), (5, 10.0)], [0, 1, 2, 3]),  # its clock comes late
        ([(0, 5.0), (1, None), (1, 7.0), (1, 8.0)], [0, 1, 2, 3]),
        ([(0, 5.0), (-3, 4.0)], [0, 0]),  # this machine's clock was set back as well
    ],
)
def test_one_clock_out_of_many(steps, times):
    clock = Clock()
    stamps = StreamClock(clock)
    made = []
    for seconds, pts in steps:
        clock.now += seconds
        made.append(stamps.stamp(pts))
    assert made == times


def test_frames_of_a_rate_are_chosen_across_breaks():
    stand = Stand([*frames_at(0.0, 0.4, 0.9, 1.1), reset()], frames_at(0.0, 0.4, 0.9, 1.4))
    frames = collect(stand.camera(fps=1.0), 4)
    assert [frame.number for frame in frames] == [0, 3, 4, 6]


def invalid():
    return av.error.InvalidDataError(1, "Invalid data", "")


def test_what_is_damaged_is_left_out_and_counted():
    script = [
        *frames_at(0.0),
        Packet(error=invalid()),
        *frames_at(0.2),
        Packet(Picture(0.3, key=False), corrupt=True),
        *frames_at(0.4),
        *frames_at(0.5, corrupt=True),
        *frames_at(0.6),
    ]
    camera = Stand(script).camera(retries=0)
    assert [frame.time for frame in camera.frames()] == [0, 0.2, 0.4, 0.6]
    assert camera.counters == {"decoded": 6, "corrupt": 3, "reopened": 0}


@pytest.mark.parametrize(
    "damage", [Packet(error=invalid()), Packet(Picture(0.2), corrupt=True), *frames_at(0.2, corrupt=True)]
)
def test_what_leans_on_damage_is_left_out_as_well(damage):
    """Up to the next picture that needs no other."""
    script = [*frames_at(0.0), *frames_at(0.1, key=False), damage, *frames_at(0.3, 0.4, key=False), *frames_at(0.5)]
    camera = Stand([*script, *frames_at(0.6, key=False)]).camera(retries=0)
    assert [round(frame.time, 6) for frame in camera.frames()] == [0, 0.1, 0.5, 0.6]
    assert camera.counters["corrupt"] == 3


def test_pictures_that_come_out_late_are_not_those_behind_the_damage():
    """A decoder that holds two pictures back: a whole one, and one that needs no other but is older than the damage."""
    late = Packet(Picture(0.0), Picture(0.1, key=False))
    broken = Packet(Picture(0.0), corrupt=True)
    broken.pts, broken.pictures = 200, []
    script = [broken, late, *frames_at(0.3, key=False), *frames_at(0.4)]
    assert [round(frame.time, 6) for frame in Stand(script).camera(retries=0).frames()] == [0, 0.1, 0.4]


def test_a_stream_that_renews_itself_piece_by_piece_comes_back():
    script = [*frames_at(0.0), Packet(error=invalid()), *frames_at(*np.arange(1, 400) / 10, key=False)]
    camera = Stand(script).camera(retries=0)
    assert len(list(camera.frames())) == 400 - MOST_DAMAGED
    assert camera.counters["corrupt"] == MOST_DAMAGED + 1


def test_nothing_but_damage_is_a_break():
    stand = Stand([*frames_at(0.0), *[Packet(error=invalid())] * (MOST_DAMAGED + 1)], frames_at(0.0))
    camera = stand.camera()
    assert len(collect(camera, 2)) == 2
    assert "broke off: what came could not be decoded" in stand.said[0]
    assert camera.counters["corrupt"] == MOST_DAMAGED + 1


def test_a_change_of_size_is_said_once():
    stand = Stand([*frames_at(0.0, 0.1), *frames_at(0.2, 0.3, size=(8, 6))])
    assert [frame.rgb.shape for frame in stand.camera(retries=0).frames()] == [(2, 4, 3)] * 2 + [(6, 8, 3)] * 2
    assert stand.said == [
        "rtsp://me:***@door.example/1?… changes its size from 4×2 to 8×6; each frame is resized from its own"
    ]


def test_closing_ends_a_pause_at_once():
    pausing, found = threading.Event(), []
    camera = Camera(ADDRESS, lambda line: pausing.set(), connect=Stand(frames_at(0.0)))
    thread = threading.Thread(target=lambda: found.extend(camera.frames()))
    thread.start()
    assert pausing.wait(10)
    camera.close()
    thread.join(0.5)  # the pause is a second
    assert not thread.is_alive()
    assert len(found) == 1


def test_tries_for_weeks_take_no_memory():
    """2,000 real tries against a port where nobody listens: at one in 30 s, as many as in 17 hours."""
    address = read_address(f"http://127.0.0.1:{free_port()}/live.ts")
    stand, tries, sizes = Stand(frames_at(0.0)), 0, []
    real = Camera(address, lambda line: None)._connect

    def connect():
        return stand() if stand.opened == 0 else real()

    def wait(seconds):
        nonlocal tries
        tries += 1
        sizes.append(resident())
        return tries == 2000

    camera = Camera(address, lambda line: None, connect=connect, wait=wait)
    list(camera.frames())
    # Less than 100 bytes a try, 100 MB in a year of a million; pages are counted, hence a floor.
    assert sizes[-1] - sizes[200] < 1800 * 100 + (1 << 20)
