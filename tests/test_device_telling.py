"""What the kit says while it follows a stream."""

import dataclasses
import io

import numpy as np
import pytest
from helpers_streams import Clock, ListSink
from test_streams_records import emitted

from sttm_export.kit.telling import Telling
from sttm_export.streams.status import Latency, Status
from sttm_export.streams.window import Counts

STATUS = Status(
    seconds=9.0,
    received=40,
    sampled=20,
    dropped=0,
    waiting=1,
    windows=1,
    counts=Counts(20, 18, 2),
    latency=Latency(0.25, 0.125, 0.25, 0.25),
    source={},
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_has_a_line_a_minute():
    file, clock = io.StringIO(), Clock()
    telling = Telling("tensorrt 10.3", file, clock)
    for second in range(121):
        clock.now = 100.0 + second
        telling.tell(dataclasses.replace(STATUS, windows=second))
    telling.end()
    assert file.getvalue().splitlines() == [
        f"{count} windows, 20 of 40 frames, 2 still, latency 0.12 s" for count in (0, 60, 120)
    ]
    assert telling.summary == "120 windows of 20 frames (18 encoded, 2 still) by tensorrt 10.3"
    assert telling.written == " 120 windows were written before, each whole."


def test_a_terminal_has_one_line_that_changes():
    file = Terminal()
    telling = Telling("tensorrt 10.3", file, Clock())
    telling.tell(dataclasses.replace(STATUS, dropped=3))
    telling.tell(dataclasses.replace(STATUS, counts=None, latency=None))
    telling.end()
    telling.end()
    first = "1 window, 20 of 40 frames, 3 dropped, 2 still, latency 0.12 s"
    second = "1 window, 20 of 40 frames"
    assert file.getvalue() == f"\r{first}\r{second}{' ' * (len(first) - len(second))}\n"
    assert telling.summary == "1 window by tensorrt 10.3"
    assert telling.written == " 1 window was written before, each whole."


def test_before_anything_came():
    telling = Telling("tensorrt 10.3", io.StringIO(), Clock())
    assert telling.summary == "0 windows by tensorrt 10.3"
    assert telling.written == ""
    telling.tell(dataclasses.replace(STATUS, dropped=7))
    assert telling.summary == "1 window of 20 frames (18 encoded, 2 still), 7 dropped, by tensorrt 10.3"


def changed(window, **merged):
    return dataclasses.replace(window, merged=dataclasses.replace(window.merged, **merged))


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_unusual_is_said_once(terminal):
    file, clock, sink = Terminal() if terminal else io.StringIO(), Clock(), ListSink()
    telling = Telling("tensorrt 10.3", file, clock)
    watched = telling.watching(sink)
    telling.tell(STATUS)
    for _ in range(3):
        watched.write(changed(emitted(4), converged=False), {"dropped": 1})
    assert file.getvalue().count("the window up to frame 6: Merging across frames did not end") == 1
    tokens = emitted().merged.tokens.copy()
    tokens[1, 2] = np.nan
    watched.write(changed(emitted(), tokens=tokens), {})
    assert "not finite" not in file.getvalue(), "not looked at again so soon"
    clock.now += 61
    for _ in range(2):
        watched.write(changed(emitted(), tokens=tokens), {})
    text = "the window up to frame 2: of its tokens 1 of 20 values are not finite (1 NaN), first at [1, 2]"
    assert file.getvalue().count(text) == 1
    assert len(sink.written) == 6
    assert sink.facts[0] == {"dropped": 1}
    telling.end()
