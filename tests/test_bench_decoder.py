"""The benchmark of the first token on a tiny decoder, and what it says where nothing can be measured."""

import dataclasses
import json

import helpers_rooms  # noqa: F401
import numpy as np
import pytest
from helpers_language import tiny_decoder

from bench import decoder, decoder_gpu, gpu, machine
from bench.decoder import FULL, Settings
from sttm_export.errors import UserError

SMALL = Settings(
    spec=tiny_decoder(),
    frames=2,
    layers=2,
    merge_layer=1,
    budgets=(0.5,),
    question=5,
    text=64,
    chunk=128,
    precision="fp32",
    clip="carphone_16x14x14",
)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Graphs of the small settings, written as the program writes them: in another process."""
    folder = tmp_path_factory.mktemp("graphs")
    decoder.run_alone(decoder.export_all, SMALL, folder)
    return folder


@pytest.fixture(scope="module")
def rows(graphs):
    return decoder.measure(SMALL, graphs, decoder.cpu_opener(1))


def test_a_row_for_each_share(rows):
    full, half = rows
    assert [row["share"] for row in rows] == [1.0, 0.5]
    assert full["video_tokens"] == 2 * 196
    assert 0 < half["video_tokens"] <= 196
    assert [row["slots"] for row in rows] == [2 * 196 + 64, 196 + 64]
    assert full["ratio"] == full["ratio_processor"] == full["ratio_all_layers_computed"] == 1.0
    assert (half["paper"], half["aim"]) == (0.484, 0.45)


def test_stages_add_up(rows):
    for row in rows:
        assert sum(row["stages_s"].values()) == pytest.approx(row["first_token_s"], abs=0.01)
        assert sum(row["stage_shares"].values()) == pytest.approx(1.0, abs=0.001)
        assert (row["stages_s"]["merger"] == 0) == (row["share"] == FULL)
        assert row["first_token_all_layers_computed_s"] > 0


def test_what_is_computed_counts_every_layer_of_the_model():
    clock, spec = decoder.Clock(2.0, 1.0), SMALL.spec
    layer = decoder.Taken(clock, decoder.Clock(0.5, 0.5))
    slow = decoder.Taken(decoder.Clock(50.0, 1.0), decoder.Clock(9.0, 9.0))
    found = decoder._times(
        dataclasses.replace(SMALL, layers=3), [layer], decoder.Clock(0.25), [layer, layer, slow], decoder.Clock(0.125)
    )
    assert spec.layers == 3
    assert found["first_token_s"] == 2 + 0.25 + 54 + 0.125
    assert found["first_token_processor_s"] == 4
    assert found["first_token_all_layers_computed_s"] == 3 * 2 + 0.25 + 0.125, "a slow spell is left out by the median"
    assert found["second_question_s"] == 0.5 + 10 + 0.125
    assert found["second_question_all_layers_computed_s"] == 3 * 0.5 + 0.125


def test_the_second_question_stands_where_the_first_stood(graphs):
    session = decoder._open_layer(SMALL, FULL, graphs, decoder.cpu_opener(1))
    streams = decoder.made_up(SMALL)
    same = dataclasses.replace(streams, again=streams.first)
    made, taken = decoder.through_layer(SMALL, session, same)
    np.testing.assert_array_equal(made.first, made.again)
    assert np.isfinite(made.video).all()
    assert made.video.shape == (decoder.SYSTEM_TOKENS + 2 * 196, SMALL.spec.hidden_size)
    assert taken.first.wall > taken.again.wall > 0


def test_lines_and_result_file(rows, tmp_path):
    lines = [decoder.table_line(row) for row in rows]
    assert "100%   392 tokens" in lines[0]
    assert "of the full prefill" not in lines[0]
    assert lines[1].endswith("paper 48.4%, aim 45.0%")
    path = tmp_path / "new" / "result.json"
    machine.write_result(path, decoder.result(SMALL, rows, threads=1))
    stored = json.loads(path.read_text())
    assert (stored["layers"], stored["layers_of_the_model"], stored["threads"]) == (2, 3, 1)
    assert {"date", "device", "versions", "notes"} <= set(stored)
    assert [row["share"] for row in stored["rows"]] == [1.0, 0.5]


def test_graphs_that_are_there_are_taken(graphs):
    before = {path: path.stat().st_mtime_ns for path in graphs.rglob("*.onnx")}
    decoder.export_all(SMALL, graphs)
    assert {path: path.stat().st_mtime_ns for path in graphs.rglob("*.onnx")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 4}, "a decoder of 3 layers; give --layers above --merge-layer, and 3 at most"),
        ({"merge_layer": 2}, "Merging at layer 2 of 2"),
        ({"question": 60}, "A question of 60 tokens does not fit into 64 slots"),
        ({"frames": 1}, "too few for a budget of 0.5"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_impossible_settings_end_with_2(capsys):
    assert decoder.main(["--layers", "29"]) == 2
    assert "28 at most" in capsys.readouterr().err
    assert decoder.main(["--model", "llava"]) == 2
    assert "Unknown model 'llava'" in capsys.readouterr().err


def test_the_model_gives_what_is_not_asked_for():
    settings = decoder.settings_of(decoder.parser().parse_args([]))
    assert (settings.layers, settings.merge_layer, settings.spec.hidden_size) == (28, 2, 3584)
    assert settings.slots(FULL) == 32 * 196 + 1024


def test_without_a_gpu_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "gpu_capability", lambda: None)
    assert decoder_gpu.main([]) == 0
    assert capsys.readouterr().out.count(".") == 1
    assert decoder_gpu.main(["--require"]) == 2


def test_what_a_gpu_runs_goes_into_one_result(graphs, monkeypatch, capsys):
    """With the processor for a GPU."""
    monkeypatch.setattr(decoder_gpu, "openers", lambda: [("stand-in", decoder.cpu_opener(1))])
    monkeypatch.setattr(decoder, "settings_of", lambda _options: SMALL)
    found = decoder_gpu.measured(decoder_gpu.parser().parse_args(["--graphs", str(graphs)]))
    assert [(row["by"], row["share"]) for row in found["rows"]] == [("stand-in", 1.0), ("stand-in", 0.5)]
    assert capsys.readouterr().out.count("stand-in") == 2


def test_engines_are_built_where_a_target_fits(monkeypatch):
    monkeypatch.setattr(decoder_gpu, "gpu_capability", lambda: None)
    assert decoder_gpu.find_target_here() is None
    monkeypatch.setattr(decoder_gpu, "gpu_capability", lambda: "sm86")
    monkeypatch.setattr(decoder_gpu, "check_available", lambda _target: None)
    found = decoder_gpu.find_target_here()
    assert found is not None
    assert "sm86" in found.compute_capabilities
