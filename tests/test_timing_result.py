"""The file of a result: read back as it was written, and refused with what is wrong."""

import dataclasses
import json

import pytest
from helpers_timing import figure, machine, result, times

from sttm_export.errors import UserError
from sttm_export.machine.clocks import ClockFacts
from sttm_export.timing.clock import WHOLE, summed
from sttm_export.timing.result import Counts, Figure, Moment, computed, read_result


def write(path, made, **changes):
    path.write_text(json.dumps({**json.loads(made.to_json()), **changes}), encoding="utf-8")
    return path


def test_a_result_is_read_as_it_was_written(tmp_path):
    engine = figure("merger", 2.0, "one CUDA graph", clock="gpu", counts=Counts(5, 1, 0, 1))
    parts = figure("first token", 30.0, "merged", parts={"head": times(1.0)}, counts=Counts(None, None, 3, 2))
    hot = machine(after=Moment(ClockFacts(gpu_mhz=900.0, gpu_pinned="no", gpu_celsius=61.0), 1.0), others=None)
    made = result(engine, parts, state=hot, computed=[computed("break-even", 40.61234567, "µs a token", "how")])
    path = write(tmp_path / "a.json", made)
    assert read_result(path) == made
    assert made.figure("merger", "one CUDA graph") is engine
    assert made.figure("merger") is None
    assert made.computed[0].value == 40.6123


def test_a_figure_is_made_of_measured_times():
    measured = summed([{WHOLE: 1.23456789, "part": 1.0}] * 3, settled=True)
    made = Figure.of("decode", "", "one token", measured)
    assert (made.times.median, made.times.runs, made.parts["part"].least) == (1.23457, 3, 1.0)
    assert (made.clock, made.key, made.settled) == ("wall", "decode", True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "something else"}, "is no result of bench; measure again"),
        ({"format": 99}, "has format 99, this program reads format 1"),
        ({"figures": [{"name": "encoder"}]}, "is not as bench writes it: missing 'figures[0].way'"),
        ({"machine": 3}, "'machine' must be a table, got 3"),
    ],
)
def test_another_file_is_refused(tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        read_result(write(tmp_path / "a.json", result(figure("encoder", 1.0)), **changes))
    assert words in str(caught.value)
    assert str(caught.value).endswith("`sttm-export bench BUNDLE --output FILE.json`.")


def test_no_file_and_no_json_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_result(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="is no result of bench"):
        read_result(tmp_path / "list.json")


def test_times_that_are_none_are_refused(tmp_path):
    bad = dataclasses.replace(figure("encoder", 1.0), times=dataclasses.replace(times(1.0), median=-1.0))
    with pytest.raises(UserError, match=r"'figures\[0\].times.median' must be 0 to"):
        read_result(write(tmp_path / "a.json", result(bad)))
