import re
from xml.etree import ElementTree

import numpy as np
import pytest

from sttm_export.validation.charts import errors_chart, similarities_chart, tokens_chart
from sttm_export.validation.histograms import count_values
from sttm_export.validation.layer_charts import losses_chart, sqnr_chart

SVG = ElementTree.fromstring


def rects(chart, kind):
    return [row for row in SVG(chart).iter("rect") if row.get("class") == kind]


def lines(chart, kind):
    return [row for row in SVG(chart).iter("line") if row.get("class") == kind]


def test_tokens():
    chart = tokens_chart([5, 0, 4], 196, [0.0, 1.0, 2.0])
    assert [row.get("data-frame") for row in rects(chart, "bar")] == ["0", "1", "2"]
    assert "frame 2 (2.00 s): 4 new tokens of 196 cells" in chart
    assert tokens_chart([], 196) == ""
    assert tokens_chart([1] * 128, 196).count('text-anchor="middle"') < 20


def test_a_time_too_many_moves_nothing():
    assert tokens_chart([5, 4], 196, [0.0, 1.0, 2.0]) == tokens_chart([5, 4], 196, [0.0, 1.0])


def test_heights_are_in_proportion():
    heights = [float(row.get("height")) for row in rects(tokens_chart([49, 98, 196], 196), "bar")]
    assert heights == pytest.approx([heights[2] / 4, heights[2] / 2, heights[2]], abs=0.1)


def test_errors():
    chart = errors_chart([0.1, 0.2, 0.05], [0.0, 1.0, 2.0])
    dots = list(SVG(chart).iter("circle"))
    assert [row.get("data-frame") for row in dots] == ["0", "1", "2"]
    assert [row[0].text for row in dots][1] == "frame 1 (1.00 s): relative error 20 %"
    assert min(dots, key=lambda row: float(row.get("cy"))).get("data-frame") == "1"
    assert re.findall(r">([\d.]+ %)<", chart)[:3] == ["0 %", "10 %", "20 %"]


def test_errors_that_are_not_finite_are_left_out():
    chart = errors_chart(["nan", 0.2, "inf", 0.3])
    assert [row.get("data-frame") for row in SVG(chart).iter("circle")] == ["1", "3"]
    assert "nan" not in chart
    assert errors_chart(["nan", "nan"]) == errors_chart([]) == ""
    # Nothing was merged: a line along the bottom.
    assert "0 %" in errors_chart([0.0, 0.0])


def histogram(values, threshold):
    return count_values(np.array(values, float), threshold).to_json()


def test_similarities_with_their_thresholds():
    values = [0.5, 0.81, 0.815, 0.87, 0.9, 0.9, 0.99]
    chart = similarities_chart(histogram(values, 0.85), 0.85, {"published for 30 %": 0.8}, "name")
    assert len(rects(chart, "bar below")) + len(rects(chart, "bar")) == len({int(100 * v) for v in values})
    (solid,), (dashed,) = lines(chart, "applied"), lines(chart, "published")
    assert float(dashed.get("x1")) < float(solid.get("x1"))
    # Bars that held lie right of the line, the others left of it.
    assert all(float(row.get("x")) >= float(solid.get("x1")) - 0.6 for row in rects(chart, "bar"))
    assert all(float(row.get("x")) < float(solid.get("x1")) for row in rects(chart, "bar below"))
    assert "0.8500 applied" in chart
    assert "0.8 published for 30 %" in chart
    assert "0.9 to 0.91: 2, of which 2 at or above the threshold" in chart


def test_a_bin_that_the_threshold_cuts_is_stacked():
    chart = similarities_chart(histogram([0.5, 0.503, 0.507, 0.508], 0.505), 0.505, {}, "name")
    (above,), (below,) = rects(chart, "bar"), rects(chart, "bar below")
    assert above.get("x") == below.get("x")
    assert float(below.get("y")) + float(below.get("height")) == pytest.approx(float(above.get("y")), abs=0.2)


def test_labels_do_not_lie_on_each_other():
    published = {"published for 50 %": 0.85, "published for 30 %": 0.8, "published for 15 %": 0.79}
    chart = similarities_chart(histogram(np.linspace(0.4, 1, 200), 0.84), 0.84, published, "name")
    labels = [row for row in SVG(chart).iter("text") if row.get("class")]
    assert len(labels) == 4
    spans = [(row.get("y"), float(row.get("x")), 3.2 * len(row.text)) for row in labels]
    for i, (y, x, half) in enumerate(spans):
        assert x - half >= 0
        assert x + half <= 580
        assert all(y != other or abs(x - place) >= half + width for other, place, width in spans[:i])


@pytest.mark.parametrize("applied", [-1.25, 1.25, 0.999])
def test_thresholds_out_of_sight_stand_at_the_edge(applied):
    chart = similarities_chart(histogram([0.7, 0.8], applied), applied, {}, "name")
    assert 0 <= float(lines(chart, "applied")[0].get("x1")) <= 580


def test_texts_are_escaped():
    chart = similarities_chart(histogram([0.7], 0.7), 0.7, {"<b>&": 0.8}, 'a"<name>')
    assert "<b>" not in chart
    assert SVG(chart).get("aria-label") == 'a"<name>'


def test_nothing_counted_is_no_chart():
    assert similarities_chart(histogram([], 0.7), 0.7, {}, "name") == ""


def points(*decibels):
    return [
        {"name": f"encoder.layers.{i}.fc1", "sqnr_db": value, "int8": i % 2 == 0} for i, value in enumerate(decibels)
    ]


def test_layers_of_int8_the_worst_first():
    chart = sqnr_chart(points(40.0, 20.0, 30.0, "inf", "nan"))
    bars = list(SVG(chart).iter("rect"))
    assert [row.get("class") for row in bars] == ["bar below", "bar", "bar"]
    assert [row[0].text.split(": ")[1].split(",")[0] for row in bars] == ["20.0 dB", "30.0 dB", "40.0 dB"]
    widths = [float(row.get("width")) for row in bars]
    assert widths == pytest.approx([widths[2] / 2, widths[2] * 0.75, widths[2]], abs=0.1)
    assert sqnr_chart([]) == sqnr_chart(points("nan")) == ""


def test_only_the_worst_layers_are_drawn():
    chart = sqnr_chart(points(*range(100)))
    assert 10 < len(list(SVG(chart).iter("rect"))) < 30


def test_layers_of_int4():
    layers = [{"layer": 2 + i, "stream": 0.02 * (i + 1), "added": "nan" if i == 1 else 0.01} for i in range(3)]
    chart = losses_chart(layers)
    assert len([row for row in SVG(chart).iter("circle") if row.get("class") == "dot stream"]) == 3
    assert len([row for row in SVG(chart).iter("circle") if row.get("class") == "dot added"]) == 2
    assert [row.text for row in SVG(chart).iter("text")][:3] == ["0 %", "5 %", "10 %"]
    assert "nan" not in chart
    assert losses_chart([]) == ""
