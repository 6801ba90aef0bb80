"""Two results against each other: noise, what cannot be compared, what became slower."""

import dataclasses

import pytest
from helpers_timing import ABOUT, RUNNER, figure, machine, result, times

from sttm_export.errors import UserError, ValidationMiss
from sttm_export.timing.compare import check_slower, compare, judge


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (times(10.0), times(11.0), "slower"),
        (times(11.0), times(10.0), "faster"),
        (times(10.0, 0.10), times(11.0, 0.10), "same"),  # middle halves overlap
        (times(10.0, 0.001), times(10.2, 0.001), "same"),  # apart, but by less than three percent
        (times(10.0, runs=4), times(20.0), "too few runs"),
        (times(10.0), times(20.0, runs=1), "too few runs"),
    ],
)
def test_what_is_beyond_noise(first, second, verdict):
    assert judge(first, second) == verdict


def test_ratios_have_the_spread_of_both():
    row = compare(result(figure("encoder", 10.0, spread=0.1)), result(figure("encoder", 20.0, spread=0.05))).rows[0]
    assert row.ratio == pytest.approx(2.0)
    assert row.bounds == pytest.approx((19.0 / 11.0, 21.0 / 9.0))


OTHER = {
    "frames of the bundle (4 and 8)": {"about": dataclasses.replace(ABOUT, frames=8)},
    "budget (0.5 and 0.3)": {"about": dataclasses.replace(ABOUT, budget=0.3)},
    "threads (1 and 2)": {"runner": dataclasses.replace(RUNNER, threads=2)},
    "processor (a processor and another)": {"state": machine(processor="another")},
    "power mode (none and 15W)": {"state": machine(power_mode="15W")},
    "GPU (none and Orin)": {"state": machine(gpu="Orin")},
}


@pytest.mark.parametrize("words", OTHER)
def test_what_cannot_be_compared_is_one_sentence(words):
    found = compare(result(figure("encoder", 1.0)), result(figure("encoder", 1.0), **OTHER[words]))
    assert found.sentence == f"The two results are not comparable, as they differ in {words}."
    with pytest.raises(UserError, match="not comparable"):
        check_slower(found, 10.0)


def test_versions_and_what_ran_the_graphs_may_differ():
    other = machine(versions={"onnxruntime": "1.33.0", "numpy": "2.4"})
    engines = dataclasses.replace(RUNNER, by="tensorrt", target="jetson-orin-jp62")
    found = compare(result(figure("encoder", 1.0)), result(figure("encoder", 1.0), state=other, runner=engines))
    assert found.sentence == ""
    assert found.others == (
        "what ran the graphs (CPUExecutionProvider and tensorrt)",
        "target (none and jetson-orin-jp62)",
        "onnxruntime (1.32.0 and 1.33.0)",
        "numpy (none and 2.4)",
    )
    check_slower(found, 0.0)


def test_a_regression_is_a_miss_with_its_figures():
    first = result(figure("encoder", 10.0), figure("first token", 100.0, "merged"), figure("merger", 5.0))
    second = result(figure("encoder", 12.0), figure("first token", 130.0, "merged"), figure("merger", 5.01))
    found = compare(first, second)
    with pytest.raises(ValidationMiss) as caught:
        check_slower(found, 10.0)
    assert str(caught.value) == (
        "Slower by more than 10 % and beyond noise: encoder (+20.0 %) and first token, merged (+30.0 %)."
    )
    with pytest.raises(ValidationMiss, match=r"noise: first token, merged \(\+30"):
        check_slower(found, 25.0)
    check_slower(found, 31.0)
    check_slower(compare(second, first), 0.0)


def test_what_cannot_be_judged_does_not_pass():
    """A gate that passes where it sees nothing would be none."""
    first = result(figure("encoder", 10.0), figure("merger", 5.0))
    with pytest.raises(UserError, match="The second result lacks merger, so nothing can be said of it"):
        check_slower(compare(first, result(figure("encoder", 10.0))), 10.0)
    few = result(figure("encoder", 10.0, runs=2), figure("merger", 5.0, work="two calls"))
    with pytest.raises(UserError, match="Nothing can be said of encoder and merger: fewer than 5 runs, or other work"):
        check_slower(compare(first, few), 10.0)
    clock = result(figure("encoder", 10.0, clock="gpu"), figure("merger", 5.0), figure("decode", 1.0))
    found = compare(first, clock)
    assert [row.verdict for row in found.rows] == ["other work", "same"]
    assert found.only_second == ("decode",)
