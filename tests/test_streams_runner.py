"""Following a source: what is dropped and what is not, when windows are written, and how it ends."""

import threading
import time

import pytest
from helpers_streams import (
    Clock,
    EndlessSource,
    ListSink,
    ListSource,
    PlainWindow,
    counted,
    plan,
    reader_threads,
    small_frame,
    wait_for,
)

from sttm_export.errors import UserError
from sttm_export.streams.queue import FrameQueue
from sttm_export.streams.runner import follow
from sttm_export.streams.status import Latencies
from sttm_export.streams.ticks import Ticks


def test_a_window_every_so_many_frames_and_the_rest_at_the_end():
    source, window, sink, told = ListSource(counted(10)), PlainWindow(size=6), ListSink(), []
    status = follow(source, window, sink, plan(every=4), told.append)
    assert sink.numbers == [[0, 1, 2, 3], [2, 3, 4, 5, 6, 7], [4, 5, 6, 7, 8, 9]]
    assert (status.received, status.sampled, status.dropped, status.waiting, status.windows) == (10, 10, 0, 0, 3)
    assert [one.windows for one in told] == [1, 2, 3, 3]
    assert source.closed.is_set()
    assert not source.thread.is_alive()


def test_no_window_is_written_twice_at_the_end():
    sink = ListSink()
    follow(ListSource(counted(8)), PlainWindow(), sink, plan(every=4))
    assert sink.numbers == [list(range(4)), list(range(8))]
    assert follow(ListSource([]), PlainWindow(), sink, plan(every=4)).windows == 0
    assert len(sink.written) == 2


def test_most_windows_end_an_endless_source():
    source, sink = EndlessSource(), ListSink()
    status = follow(source, PlainWindow(), sink, plan(every=2, most_windows=3))
    assert status.windows == len(sink.written) == 3
    assert not source.thread.is_alive()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 0}, "every = 0 is not possible"),
        ({"every": 4, "queue": 0}, "queue = 0"),
        ({"every": 4, "most_windows": 0}, "most_windows = 0"),
        ({"every": 4, "fps": 0.0}, "0 frames a second"),
        ({"every": 4, "fps": float("inf")}, "inf frames a second"),
        ({"every": 4, "fps": float("nan")}, "nan frames a second"),
        ({"every": 3}, "no whole steps of 2 frames; give a multiple of 2"),
    ],
)
def test_plans_that_are_not_possible(wrong, message):
    source = ListSource(counted(8))
    with pytest.raises(UserError, match=message):
        follow(source, PlainWindow(frames_per_step=2), ListSink(), plan(**wrong))
    assert source.thread is None


# The drop rule.


def test_of_a_source_that_cannot_wait_the_oldest_goes():
    queue = FrameQueue(3, waits=False)
    assert all(queue.put(number) for number in range(8))
    assert queue.dropped == 5
    assert [queue.get(0) for _ in range(4)] == [5, 6, 7, None]
    assert not queue.finished
    queue.finish()
    assert queue.finished


def test_a_source_that_waits_is_made_to_wait():
    queue, put = FrameQueue(2, waits=True), []
    thread = threading.Thread(target=lambda: [put.append(queue.put(number)) for number in range(5)])
    thread.start()
    wait_for(lambda: len(put) == 2)
    time.sleep(0.02)
    assert len(put) == 2
    assert [queue.get(1) for _ in range(5)] == list(range(5))
    thread.join()
    assert queue.dropped == 0


def test_a_closed_queue_lets_go_of_who_waits():
    queue, put = FrameQueue(1, waits=True), []
    queue.put(0)
    thread = threading.Thread(target=lambda: put.append(queue.put(1)))
    thread.start()
    queue.close()
    thread.join(5)
    assert put == [False]
    assert len(queue) == 0


def test_what_was_dropped_stands_in_the_next_record():
    """The sink holds the work up while eight frames come in; the queue keeps the three newest."""
    go, arrived = threading.Event(), threading.Event()
    source = ListSource([*counted(2), lambda: arrived.wait(10), *counted(10)[2:], go.set], waits=False)

    def hold():
        arrived.set()
        assert go.wait(10)

    sink = ListSink(hold=hold)
    status = follow(source, PlainWindow(size=2), sink, plan(every=2, queue=3))
    assert sink.numbers == [[0, 1], [7, 8], [8, 9]]
    assert [facts["dropped"] for facts in sink.facts] == [0, 5, 5]
    assert status.dropped == 5
    assert status.sampled == 10


def test_a_slow_reader_of_a_source_that_waits_loses_nothing():
    sink = ListSink(hold=lambda: time.sleep(0.01))
    status = follow(ListSource(counted(40)), PlainWindow(size=1), sink, plan(every=1, queue=2))
    assert [number for (number,) in sink.numbers] == list(range(40))
    assert status.dropped == 0


# Sampling.


def taken(fps, times):
    ticks = Ticks(fps)
    return [number for number, moment in enumerate(times) if ticks.takes(moment)]


def test_the_first_frame_at_or_after_each_moment():
    assert taken(1.0, [0.0, 0.4, 0.9, 1.1, 1.9, 2.0, 2.5]) == [0, 3, 5]
    assert taken(2.0, [7.3, 7.7, 7.8, 8.2, 8.4]) == [0, 2, 4]
    assert taken(None, [0, 0, 0]) == [0, 1, 2]


def test_what_comes_late_or_twice_is_not_made_up_for():
    assert taken(1.0, [0.0, 5.2, 5.4, 5.9, 6.0]) == [0, 1, 4]
    assert taken(1.0, [0.0, 0.0, 1.0, 1.0]) == [0, 2]
    assert taken(100.0, [0.0, 1.0, 2.0]) == [0, 1, 2]


@pytest.mark.parametrize("rate", [10, 24, 25, 30, 30000 / 1001, 50, 60, 120])
def test_rounded_times_lose_no_frame(rate):
    """Of a container that counts milliseconds, asked for its own rate, and for half of it."""
    times = [round(1000 * number / rate) / 1000 for number in range(1000)]
    assert taken(rate, times) == list(range(1000))
    assert taken(rate / 2, times) == list(range(0, 1000, 2))
    assert taken(rate, [86400 * 30 + moment for moment in times]) == list(range(1000))


def test_a_clock_that_goes_back_starts_anew():
    assert taken(1.0, [5.0, 6.0, 0.5, 1.0, 1.5]) == [0, 1, 2, 4]


def test_frames_that_are_left_out_by_the_rate_are_not_dropped_ones():
    sink = ListSink()
    status = follow(ListSource(counted(30, fps=10), waits=False), PlainWindow(), sink, plan(every=1, fps=1, queue=99))
    assert sink.numbers[-1] == [0, 10, 20]
    assert (status.received, status.sampled, status.dropped) == (30, 3, 0)


# Latency.


def test_latency_counts_from_the_newest_frame_to_the_record():
    clock = Clock()

    def sink_takes():
        clock.now += 0.5

    def window_takes():
        clock.now += 0.125

    window, source = PlainWindow(hold=window_takes), ListSource([])

    def taken_up(number):
        return lambda: wait_for(lambda: window.pushed == number + 1)

    source.items = [item for frame in counted(4) for item in (frame, taken_up(frame.number))]
    told = []
    sink = ListSink(hold=sink_takes)
    follow(source, window, sink, plan(every=2), told.append, clock=clock)
    assert [facts["latency"] for facts in sink.facts] == [0.125, 0.125]
    assert told[-1].latency.last == told[-1].latency.max == 0.625


def test_latencies_are_of_the_last_thousand_windows():
    latencies = Latencies()
    assert latencies.latency is None
    for number in range(3000):
        latencies.add(float(number))
    assert len(latencies._recent) == 1000
    latency = latencies.latency
    assert (latency.last, latency.median, latency.p95, latency.max) == (2999.0, 2499.0, 2949.0, 2999.0)
    one = Latencies()
    one.add(2.0)
    assert (one.latency.median, one.latency.p95, one.latency.max) == (2.0, 2.0, 2.0)


# Ends.


def test_an_error_of_the_source_comes_after_what_was_before_it():
    source, sink = ListSource([*counted(6), UserError("The source is gone.")]), ListSink()
    with pytest.raises(UserError, match="The source is gone"):
        follow(source, PlainWindow(), sink, plan(every=4))
    assert sink.numbers == [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert not source.thread.is_alive()


def test_an_error_at_once():
    source, sink = ListSource([ValueError("a fault")]), ListSink()
    with pytest.raises(ValueError, match="a fault"):
        follow(source, PlainWindow(), sink, plan(every=4))
    assert sink.written == []


@pytest.mark.parametrize("waits", [True, False])
def test_an_error_of_the_sink_ends_it_at_once(waits):
    source, told = ListSource(counted(100), waits=waits), []
    sink = ListSink(fails=2)
    with pytest.raises(OSError, match="No space left"):
        follow(source, PlainWindow(), sink, plan(every=4, queue=50), told.append)
    assert len(sink.written) == 2
    assert told[-1].windows == 2
    assert not source.thread.is_alive()


def test_an_interruption_ends_it_at_once_and_is_told():
    """As a signal arrives: in the thread that works, here while it pushes."""
    source, told = EndlessSource(), []

    def hold():
        if window.pushed == 5:
            raise KeyboardInterrupt

    window, sink = PlainWindow(hold=hold), ListSink()
    with pytest.raises(KeyboardInterrupt):
        follow(source, window, sink, plan(every=2), told.append)
    assert sink.numbers == [[0, 1], [0, 1, 2, 3]]
    assert told[-1].windows == 2
    assert not source.thread.is_alive()
    assert reader_threads() == []


def test_an_error_of_who_is_told_ends_it_too():
    source = EndlessSource()

    def tell(status):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(source, PlainWindow(), ListSink(), plan(every=2), tell)
    assert not source.thread.is_alive()


def test_the_status_is_told_while_nothing_comes():
    """A source that is broken off for a while is not silent; nobody works meanwhile."""
    told = []
    source = ListSource([*counted(1), lambda: wait_for(lambda: len(told) >= 2), *counted(3)[1:]], waits=False)
    before = time.thread_time()
    follow(source, PlainWindow(), ListSink(), plan(every=3), told.append)
    assert time.thread_time() - before < 0.5
    assert [status.windows for status in told][:2] == [0, 0]


def test_counters_of_the_source_stand_in_records_and_status():
    sink = ListSink()
    source = ListSource(counted(2), counters={"reopened": 3})
    assert follow(source, PlainWindow(), sink, plan(every=2)).source == {"reopened": 3}
    assert sink.facts[0]["reopened"] == 3
    assert {"received", "sampled", "dropped", "latency"} <= sink.facts[0].keys()


def test_frames_reach_the_window_as_they_are():
    sink = ListSink()
    follow(ListSource([small_frame(7, 1.5), small_frame(9, 2.25)]), PlainWindow(), sink, plan(every=2))
    (emitted,) = sink.written
    assert emitted.numbers.tolist() == [7, 9]
    assert emitted.timestamps.tolist() == [1.5, 2.25]
    assert emitted.values.tolist() == [7, 9]


def test_under_load_every_frame_is_either_seen_or_counted():
    """20,000 frames of a camera that is faster than what it is followed by."""
    sink, source = ListSink(), ListSource(counted(20_000, fps=100), waits=False)
    status = follow(source, PlainWindow(size=4, hold=lambda: time.sleep(1e-5)), sink, plan(4, queue=3))
    assert status.received == status.sampled == 20_000
    pushed = sink.written[-1].counts.frames
    assert status.dropped > 0
    assert pushed + status.dropped == 20_000
    assert pushed == 4 * (status.windows - 1) + (pushed % 4 or 4)
    numbers = [number for window in sink.numbers[: pushed // 4] for number in window]
    assert numbers == sorted(set(numbers))
    assert sink.written[-1].numbers[-1] == 19_999  # the newest frame is never the one that is dropped
    assert [facts["dropped"] for facts in sink.facts] == sorted(facts["dropped"] for facts in sink.facts)
