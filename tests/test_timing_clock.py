"""Warm-up, turns and spread, on clocks that a test sets."""

import itertools

import pytest

from sttm_export.timing.clock import WHOLE, Limits, Spread, in_turns, measure, runs_in_a_row, summed, timed, warm_up


def taking(*milliseconds):
    """A candidate whose runs take these milliseconds, the last ones for ever."""
    values = itertools.chain(milliseconds, itertools.repeat(milliseconds[-1]))
    return lambda: {WHOLE: next(values)}


def test_candidates_take_turns_from_the_first_round_on():
    order = []
    taken = in_turns({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 3, pause=0.0)
    assert "".join(order) == "abcabcabc"
    assert taken == {"a": [1, 4, 7], "b": [2, 5, 8], "c": [3, 6, 9]}


def test_no_round_begins_when_time_is_over_but_the_first():
    shares = []
    taken = in_turns({"a": lambda: 1}, 5, pause=0.02, seconds=0.001, told=shares.append)
    assert taken == {"a": [1]}
    assert shares == [1.0]


@pytest.mark.parametrize(
    ("times", "settled"),
    [
        ((90.0, 50.0, 50.0, 50.0, 30.0, 20.0), True),
        ((5.0,), True),
        ((9.0, 9.0, *([10.0] * 3 + [20.0] * 3) * 20), False),
    ],
)
def test_a_candidate_is_warm_when_two_windows_agree(times, settled):
    assert warm_up(taking(*times), 10_000.0)[0] is settled


def test_what_is_too_slow_to_settle_is_run_once_and_said():
    calls = []

    def slow():
        calls.append(1)
        return {WHOLE: 9_000.0}

    assert warm_up(slow, 10_000.0) == (False, 9_000.0)
    assert len(calls) == 1


def test_quartiles_are_between_the_runs():
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 1.0, 5)
    assert Spread.of([1.0, 2.0]) == Spread(1.5, 1.25, 1.75, 1.0, 2)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 1)


def test_parts_have_medians_of_their_own():
    found = summed([{WHOLE: 9.0, "a": 4.0}, {WHOLE: 11.0, "a": 5.0}, {WHOLE: 10.0, "a": 9.0}], settled=False)
    assert (found.whole.median, found.parts["a"].median, found.settled) == (10.0, 5.0, False)


def test_rounds_come_behind_the_warm_up_of_all():
    order, told = [], []

    def candidate(name):
        return lambda: order.append(name) or {WHOLE: 1.0}

    calls = {name: candidate(name) for name in "ab"}
    found = measure(calls, Limits(4, 60.0, gpu=True), lambda *row: told.append(row))
    warm, rounds = "".join(order[:-8]), "".join(order[-8:])
    assert rounds == "abababab"
    assert warm == "a" * warm.count("a") + "b" * warm.count("b")
    assert {name: measured.whole.runs for name, measured in found.items()} == {"a": 4, "b": 4}
    assert told[0] == ("warm up a", 0.0)
    assert told[-1] == ("measure in turns", 1.0)


@pytest.mark.parametrize(
    ("taking", "slowest", "runs"),
    [(100.0, 100.0, 1), (11.0, 100.0, 1), (4.0, 100.0, 2), (0.1, 100.0, 5), (0.0, 0.0, 1)],
)
def test_quick_candidates_run_several_times_beside_slow_ones(taking, slowest, runs):
    assert runs_in_a_row(taking, slowest) == runs


def test_in_a_row_is_within_a_round():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    in_turns(calls, 2, pause=0.0, in_a_row={"b": 3})
    assert "".join(order) == "abbbabbb"


def test_a_function_is_timed_on_the_wall():
    assert timed(lambda: None)()[WHOLE] >= 0
