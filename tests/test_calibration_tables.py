"""The tables of calibration/ hold together with the models, the document and the files they speak of."""

import hashlib
import re
from fractions import Fraction
from itertools import pairwise

import pytest
from helpers_merging import REAL_CLIPS
from helpers_rooms import ROOT

from sttm_export.contracts.data import data_directory, read_toml
from sttm_export.errors import UserError
from sttm_export.families.registry import load_model, model_names
from sttm_export.runtime.probe import probe
from sttm_export.runtime.sample_clips import CLIPS, DISTRIBUTION, find_sample_clip

ROOM = data_directory("calibration")
PUBLISHED = read_toml(ROOM / "published.toml")
SAMPLES = read_toml(ROOM / "clips.toml")
SOLVED = read_toml(ROOM / "solved.toml")["solved"]
# Which data set's row models/*.toml took as the default (named in a comment there).
DEFAULT_ROW = {"llava-video-72b": "Video-MME"}


def flat(model):
    return {
        (dataset, float(budget)): tuple(pair)
        for dataset, by_budget in model["thresholds"].items()
        for budget, pair in by_budget.items()
    }


@pytest.mark.parametrize("name", model_names())
def test_models_repeat_a_published_row(name):
    spec, rows = load_model(name), flat(PUBLISHED[name])
    dataset = DEFAULT_ROW.get(name, "VNBench")
    assert len(spec.merging.thresholds) == 2
    for row in spec.merging.thresholds:
        assert (row.spatial, row.temporal) == rows[dataset, row.budget]
    assert spec.merging.published_layer == PUBLISHED[name]["merge_layer"]
    assert (spec.sampling.fps, spec.sampling.max_frames) == (PUBLISHED[name]["fps"], PUBLISHED[name]["frames"])


def test_published_thresholds_are_those_of_the_document():
    text = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
    section = text.split("## 6. ", 1)[1].split("\n## ", 1)[0]
    found, title = {}, ""
    for model, layer, dataset, half, third in re.findall(
        r"^\| (?:([\w.-]+), L = (\d))? ?\| ([\w-]+) \| ([\d., ]+) \| ([\d., ]+) \|$", section, re.MULTILINE
    ):
        title = f"{model}, L = {layer}" if model else title
        for budget, pair in ((0.5, half), (0.3, third)):
            found[title, dataset, budget] = tuple(float(value) for value in pair.split(","))
    ours = {
        (f"{model['title']}, L = {model['merge_layer']}", *key): pair
        for model in PUBLISHED.values()
        for key, pair in flat(model).items()
    }
    assert len(found) == 32
    assert ours == found


def test_every_sample_clip_is_described():
    assert set(SAMPLES) == set(CLIPS)
    described = {name for facts in SAMPLES.values() for name in facts["features"]}
    assert described == {path.stem for path in REAL_CLIPS}


@pytest.mark.parametrize("name", CLIPS)
def test_facts_are_those_of_the_file(name):
    facts = SAMPLES[name]
    try:
        path = find_sample_clip(name)
    except UserError as reason:
        pytest.skip(str(reason))
    assert path.as_posix().endswith(facts["file"])
    assert facts["distribution"].split("==")[0] == DISTRIBUTION
    assert path.stat().st_size == facts["bytes"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"]
    info = probe(path)
    assert (info.frames, info.fps) == (facts["frames"], Fraction(facts["fps"]))
    assert (info.width, info.height) == (facts["width"], facts["height"])


def test_solved_values_are_possible_and_complete():
    keys = [(row["clip"], row["budget"]) for row in SOLVED]
    assert sorted(keys) == sorted((path.stem, budget) for path in REAL_CLIPS for budget in (0.5, 0.3, 0.15))
    for row in SOLVED:
        assert 0.98 * row["max_tokens"] <= row["tokens"] <= row["max_tokens"]
        assert row["given_spatial"] <= row["spatial"] <= 1.0
        assert -1.0 <= row["temporal"] <= 1.0


def test_a_smaller_budget_never_asks_for_a_higher_threshold():
    for path in REAL_CLIPS:
        rows = sorted((row for row in SOLVED if row["clip"] == path.stem), key=lambda row: row["budget"])
        for smaller, larger in pairwise(rows):
            assert smaller["temporal"] <= larger["temporal"]
            assert smaller["spatial"] <= larger["spatial"]
