"""The picture of a result, and times in words."""

import xml.etree.ElementTree as ET

import pytest
from helpers_timing import figure, result, times

from sttm_export.timing.decoder import ALL, FIRST, MERGED
from sttm_export.timing.plot import panels, plot_result
from sttm_export.timing.result import computed
from sttm_export.timing.words import middle_text, time_text, verdict

SVG = "{http://www.w3.org/2000/svg}"
PARTS = {"layers below": times(30.0), "head": times(10.0)}
FIGURES = (
    figure("encoder", 20.0),
    figure("merger", 5.0),
    figure(FIRST, 60.0, MERGED, parts=PARTS),
    figure(FIRST, 90.0, ALL, parts=PARTS, spread=0.05),
)


@pytest.fixture
def drawn():
    return ET.fromstring(plot_result(result(*FIGURES)))


def test_it_is_a_file_of_its_own_that_loads_nothing(drawn):
    text = plot_result(result(*FIGURES))
    assert drawn.tag == f"{SVG}svg"
    assert "prefers-color-scheme: dark" in text
    assert [word for word in ("href", "url(", "<script", "@import") if word in text] == []


def test_bars_are_as_long_as_their_medians(drawn):
    bars = [rect for rect in drawn.iter(f"{SVG}rect") if "bar" in rect.get("class")]
    wide = [float(rect.get("width")) for rect in bars]
    assert wide[0] / wide[1] == pytest.approx(4.0, rel=0.01)
    # Two parts and what is left of 60 and of 90, in one scale.
    merged, whole = sum(wide[2:5]), sum(wide[5:8])
    assert whole / merged == pytest.approx(1.5, rel=0.01)
    assert [rect.find(f"{SVG}title").text for rect in bars[2:5]] == [
        "layers below: 30 ms",
        "head: 10 ms",
        "everything else: 20 ms",
    ]
    assert [rect.get("class") for rect in bars[5:]] == ["bar all part0", "bar all part1", "bar all part2"]


def test_whiskers_reach_over_the_middle_half(drawn):
    lines = [line for line in drawn.iter(f"{SVG}line") if line.get("class") == "whisker"]
    lengths = [float(line.get("x2")) - float(line.get("x1")) for line in lines]
    assert lengths[3] / lengths[2] == pytest.approx(9.0 / 1.2, rel=0.02)


def test_parts_never_make_a_bar_longer_than_its_median():
    long = figure(FIRST, 30.0, MERGED, parts={"a": times(20.0), "b": times(20.0)})
    text = plot_result(result(long))
    assert "<title>a: 15 ms</title>" in text


def test_what_belongs_together_shares_a_scale():
    found = dict(panels([*FIGURES, figure("decoder_00_01, 16 rows", 1.0, "launched")]))
    assert [len(rows) for rows in found.values()] == [2, 2, 1]
    assert "Encoder and merger" in found


def test_names_are_escaped():
    assert "&lt;b&gt;" in plot_result(result(figure("<b>", 1.0)))


@pytest.mark.parametrize(
    ("milliseconds", "words"), [(0.41234, "0.412 ms"), (12.34, "12.3 ms"), (999.0, "999 ms"), (4210.0, "4.21 s")]
)
def test_times_have_three_digits(milliseconds, words):
    assert time_text(milliseconds) == words


def test_the_middle_half_in_words():
    assert middle_text(times(10.0, 0.1)) == "9–11 ms"
    assert middle_text(times(1000.0, 0.1)) == "900 ms–1.1 s"
    assert middle_text(times(10.0, runs=1)) == "one run"


@pytest.mark.parametrize(
    ("merged", "whole", "runs", "words"),
    [
        (60.0, 90.0, 20, "Merging pays here: the first token comes after 66.7% of the time that all tokens take"),
        (90.0, 60.0, 20, "Merging does not pay here: the first token comes after 150.0%"),
        (60.0, 60.5, 20, "Merging makes no difference beyond noise here"),
        (60.0, 90.0, 2, "by too few runs to tell more"),
    ],
)
def test_whether_merging_pays_is_one_sentence(merged, whole, runs, words):
    found = verdict(result(figure(FIRST, merged, MERGED, runs=runs), figure(FIRST, whole, ALL, runs=runs)))
    assert words in found


def test_without_a_decoder_it_is_said_where_merging_pays():
    rows = [computed("tokens kept", 50.0, "%", ""), computed("merger, of encoding", 2.5, "%", "")]
    limit = computed("break-even", 36.4, "µs a token", "")
    assert verdict(result(computed=[*rows, limit])) == (
        "Merging keeps 50 % of the tokens and adds 2.5 % to encoding; it pays where a token of prefill takes more than "
        "36.4 µs."
    )
    assert verdict(result(computed=rows)).endswith("it saves nothing on this clip.")
    few = verdict(result(figure("encoder", 1.0, runs=1), computed=[*rows, limit]))
    assert few.endswith("more than 36.4 µs. Fewer than 5 runs say little; give more --runs and --seconds.")
