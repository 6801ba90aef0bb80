import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from test_validation_stages import bunny, merger_chain  # noqa: F401

from sttm_export.errors import UserError
from sttm_export.runtime.merged import NOT_CONVERGED
from sttm_export.validation.histograms import count_values
from sttm_export.validation.report import format_figure, render_report, verdict, write_report
from sttm_export.validation.results import skipped


@pytest.fixture(scope="module")
def manifest(bunny):  # noqa: F811
    outputs = bunny.run()
    return {
        "model": {
            "name": "llava-video-7b",
            "title": "LLaVA-Video-7B",
            "hub_id": "x/y",
            "merging": {"thresholds": [{"budget": 0.3, "spatial": 0.8, "temporal": 0.6}]},
        },
        "precision": "fp16",
        "weights": {"kind": "random", "identifier": "random", "seed": 7, "sha256": "ab" * 32, "revision": None},
        "merge": {**vars(bunny.merge), "max_tokens": 3136},
        "validation": merger_chain(bunny, outputs, outputs, outputs).to_json(),
        "example": {
            "clip": "bunny",
            "num_tokens": 9,
            "tokens_per_frame": [5, 0, 4],
            "timestamps": [0.0, 1.0, 2.0],
            "thresholds": [0.85, 0.65],
            "margins": [3e-5, 4.0],
            "fidelity": {
                "relative_error": 0.1234,
                "cosine": 0.98765,
                "error_of_frame": [0.1, 0.0, 0.2],
                "cosine_of_frame": [0.99, 1.0, 0.97],
            },
            "similarities": {
                name: count_values(np.array([0.5, 0.7, 0.9, np.nan]), limit).to_json()
                for name, limit in (("spatial", 0.85), ("temporal", 0.65))
            },
        },
        "files": [{"path": "token_merger.onnx", "bytes": 829423616, "sha256": "cd" * 32}],
        "engines": [
            {
                "target": "rtx",
                "compute_capability": "sm86",
                "graph": "token_merger",
                "status": "built",
                "reason": "",
                "bytes": 2048,
                "seconds": 3.25,
            },
            {
                "target": "jetson",
                "compute_capability": "",
                "graph": "token_merger",
                "status": "skipped",
                "reason": "built on the device",
                "bytes": 0,
                "seconds": 0.0,
            },
        ],
        "versions": {"torch": "2.13.0"},
    }


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "tokens.png"
    Image.new("RGB", (4, 4)).save(path)
    return path


class Checker(HTMLParser):
    """Every opened element is closed, and nothing is loaded from elsewhere."""

    VOID = frozenset({"meta", "img", "br", "line", "link"})

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags = [], []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href") or value.startswith("data:")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_the_whole_report(tmp_path, picture, manifest):
    html = write_report(tmp_path / "report.html", manifest, picture).read_text(encoding="utf-8")
    assert {"svg", "img", "table", "style"} <= set(Checker(html).tags)
    for text in (
        "Random weights, seed 7: numbers prove the graphs, not the model.",
        "All 6 checks passed",
        "token_merger.tokens",
        "3,136 of 3,136 cells agree",
        "791 MiB",
        "built on the device",
        "3.2 s",
        "4·u(float32)",
        "torch 2.13.0",
        "data:image/jpeg;base64,",
    ):
        assert text in html, text
    # Without frames there is no player, and nothing runs.
    assert "script" not in Checker(html).tags


def test_a_miss_is_the_headline(bunny, manifest):  # noqa: F811
    bad = {name: array.copy() for name, array in bunny.run().items()}
    bad["tokens"] *= 2
    missed = {**manifest, "validation": merger_chain(bunny, bunny.run(), bunny.run(), bad).to_json()}
    html = render_report(json.loads(json.dumps(missed)))
    Checker(html)
    assert verdict(missed) == "missed"
    assert "Validation missed" in html
    assert "checks passed" not in html
    assert "norm ratio rises to 2" in html
    assert "token_merger.tokens departs from" in html
    assert "smallest tolerance that would pass: 1 by row" in html


def test_decisions_findings_and_infinite_figures(bunny, manifest):  # noqa: F811
    report = json.loads(json.dumps(manifest["validation"]))
    report["findings"] = ["features hold 3 NaN/Inf in frames 1"]
    report["results"][0]["decisions"]["wrong"] = [f"cell {i}" for i in range(20)]
    report["results"][2]["gate"]["needed"] = "inf"
    report["results"][2]["comparison"]["norm_ratio_max"] = "inf"
    html = render_report({**manifest, "validation": report})
    Checker(html)
    assert "Finding: features hold 3" in html
    assert "cell 11" in html
    assert "cell 12" not in html
    assert "∞" in html


class Cells(HTMLParser):
    """Classes of the tables, the containers they scroll in, and the labels of cells in the order of their headings."""

    def __init__(self, html):
        super().__init__()
        self.containers, self.unlabelled, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("table", "svg", "img"):
            self.containers.append((tag, self.open[-1]))
        if tag == "td" and "n" in attributes.get("class", "").split() and "colspan" not in attributes:
            self.unlabelled += [] if attributes.get("data-label") else [attrs]
        if tag == "div":
            self.open.append(attributes.get("class"))

    def handle_endtag(self, tag):
        if tag == "div":
            self.open.pop()


def test_verdict_and_pictures_come_before_tables(picture, manifest):
    html = render_report(manifest, picture)
    places = [html.index(mark) for mark in ('class="verdict passed"', "<img", "<svg", '<dl class="facts"', "<table")]
    assert places == sorted(places)
    assert html.index("Stages") < html.index("Discrete decisions") < html.index(">Engines<") < html.index(">Files<")


def test_a_phone_loses_nothing(picture, manifest):
    """Wide things scroll in their own container, and where a table is stacked every figure carries its heading."""
    html = render_report(manifest, picture)
    cells = Cells(html)
    assert cells.containers == [("img", "wide"), *[("svg", "wide")] * 4, *[("table", "scroll")] * 5]
    assert cells.unlabelled == []
    assert html.count("<table") == html.count('<table class="stack">')
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    for rule in (
        "@media (max-width: 720px)",
        "content: attr(data-label)",
        ".scroll { overflow-x: auto;",
        ".wide { overflow-x: auto;",
    ):
        assert rule in html


def test_what_was_not_judged_is_no_miss_and_rows_say_their_clip(bunny, manifest):  # noqa: F811
    report = merger_chain(bunny, *[bunny.run()] * 3).on("9 frames of a.mp4")
    report.results.append(skipped("onnxruntime", "", "token_merger", "tokens", "for want of features"))
    html = render_report({**manifest, "validation": report.to_json()})
    Checker(html)
    assert "not judged: for want of features" in html
    assert ">skip</span>" in html
    assert ">miss</span>" not in html
    assert html.count("<small>on 9 frames of a.mp4</small>") == 6
    assert "against ;" not in html
    assert "was not judged." in html
    assert verdict({"validation": report.to_json()}) == "missed"


def test_merging_that_did_not_converge_is_said(manifest):
    assert NOT_CONVERGED not in render_report(manifest)
    for converged in (True, False):
        example = {**manifest["example"], "converged": converged}
        assert (NOT_CONVERGED in render_report({**manifest, "example": example})) == (not converged)


def test_checkpoint_weights_do_not_shout(manifest):
    html = render_report({**manifest, "weights": {"kind": "checkpoint", "identifier": "a/b", "revision": "abc"}})
    assert "Random weights" not in html
    assert "a/b at abc" in html


def test_an_empty_manifest_hides_nothing():
    html = render_report({})
    Checker(html)
    assert "Not validated" in html
    assert "origin of the weights is not recorded" in html
    assert "No engine" in html
    assert verdict({}) == "unchecked"


def test_files_as_a_mapping(manifest):
    assert "1.0 KiB" in render_report({**manifest, "files": {"a.onnx": {"bytes": 1024, "sha256": "ef" * 32}}})


def test_text_is_escaped(manifest):
    evil = "<script>alert(1)</script>"
    engines = [{**manifest["engines"][0], "reason": evil}]
    example = {**manifest["example"], "clip": f"{evil} 'a' \"b\" Ünï.mp4"}
    html = render_report({**manifest, "model": {"title": evil}, "engines": engines, "example": example})
    assert evil not in html
    assert "&lt;script&gt;" in html
    assert "&#39;a&#39; &#34;b&#34; Ünï.mp4" in html


def test_fidelity_and_similarities(manifest):
    html = render_report(json.loads(json.dumps(manifest)))
    Checker(html)
    for text in (
        "relative error 12.3 %, mean cosine 0.9877",
        "0.8500 applied",
        "0.6500 applied",
        "0.8 published for 30 %",
        "0.6 published for 30 %",
        "1 of 3 at or above the applied threshold; 1 not defined",
        "2 of 3 at or above the applied threshold",
        "Tokens and fidelity of each frame",
        'data-label="Relative error">20 %<',
    ):
        assert text in html, text


def test_features_that_are_not_finite(manifest):
    """A rejected bundle: nothing can be counted or compared, and the report says so."""
    nothing = {name: count_values(np.full(5, np.nan), 0.8).to_json() for name in ("spatial", "temporal")}
    kept = {"relative_error": "nan", "cosine": "nan", "error_of_frame": ["nan"] * 3, "cosine_of_frame": ["nan"] * 3}
    example = {**manifest["example"], "fidelity": kept, "similarities": nothing}
    html = render_report({**manifest, "example": example})
    Checker(html)
    assert "Not defined, because features are not finite." in html
    assert "Similarities and thresholds" not in html


def test_what_few_bits_cost(manifest):
    figures = {"cost": 0.01, "sqnr_unscaled_db": 18.0, "moved": 0, "method": "entropy"}
    points = [{"name": f"layer.{i}.fc1", "sqnr_db": 20.0 + i, "int8": i > 0, **figures} for i in range(3)]
    sizes = {"layers": "auto", "trials": 0, "weight_bytes": 1024, "weight_bytes_float16": 2048, "decisions": None}
    calibration = {"name": "a", "frames": 8, "clips": 1, "sha256": "ef" * 32}
    layers = [{"layer": i, "added": 0.05, "stream": 0.1, "rounding": 0.0} for i in (2, 3)]
    losses = {"weights": [{"name": "a", "relative": 0.07}], "layers": layers, "logits": None}
    html = render_report({**manifest, "int4_losses": losses})
    Checker(html)
    assert "What INT4 weights lose" in html
    assert "Relative error behind each layer" in html
    assert "Int8 products" not in html
    charts = render_report({**manifest, "quantization": {"points": points, **sizes}, "calibration": calibration})
    assert charts.index("Int8 products.") < charts.index("<table")
    assert "layer.0.fc1: 20.0 dB, stays float16" in charts
    assert "What few bits cost" not in render_report(manifest)


def test_a_manifest_of_before_has_no_fidelity(manifest):
    example = {name: value for name, value in manifest["example"].items() if name not in ("fidelity", "similarities")}
    html = render_report({**manifest, "example": example})
    Checker(html)
    assert "Fidelity" not in html
    assert "What each frame adds" in html


def test_pictures_are_checked(tmp_path, manifest):
    with pytest.raises(UserError, match="Cannot read the picture"):
        render_report(manifest, tmp_path / "none.png")
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(UserError, match="is not a PNG"):
        render_report(manifest, tmp_path / "a.png")
    with pytest.raises(UserError, match="Cannot write"):
        write_report(tmp_path / "no" / "report.html", manifest)


def test_formats():
    assert [format_figure(v) for v in (None, "inf", "-inf", "nan", 0.00012345)] == ["-", "∞", "-∞", "NaN", "0.000123"]
