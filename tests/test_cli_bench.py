"""`sttm-export bench`: every kind of bundle, ONNX Runtime and engines, comparison, refusals. No time is judged."""

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from helpers_ask import export_asked
from helpers_int4 import int4_model
from helpers_runtime import write_video
from helpers_standins import ORIN, build_on_orin

from sttm_export.bundle.store import ENGINES
from sttm_export.cli import main
from sttm_export.timing.result import Counts, read_result

QUICK = ("--runs", "2", "--seconds", "0.3", "--threads", "1")


def bench(capsys, *arguments):
    """Exit code, standard output, and the last line of standard error."""
    capsys.readouterr()
    code = main(["bench", *map(str, arguments)])
    text = capsys.readouterr()
    assert "Traceback" not in text.err
    return code, text.out, " ".join(text.err.split("\n")[-2:]).strip()


def measured(capsys, bundle, folder, *more):
    output = folder / "found.json"
    code, out, err = bench(capsys, bundle, "--output", output, *QUICK, *more)
    assert code == 0, err
    ET.parse(output.with_suffix(".svg"))
    found = read_result(output)
    assert f"{output}\n{output.with_suffix('.svg')}\n" in out
    assert all(figure.times.least <= figure.times.median <= figure.times.upper for figure in found.figures)
    return found, out


def keys(found):
    return [figure.key for figure in found.figures]


VISION = ["encoder", "merger"]
FRAMES = ["pipeline, merged", "pipeline, all tokens"]
LIVE = ["live step, moving", "live step, still"]
LANGUAGE = ["first token, merged", "further question", "decode", "first token, all tokens"]


def test_a_bundle_without_a_decoder(tiny_bundle, tmp_path, capsys):
    found, out = measured(capsys, tiny_bundle, tmp_path)
    assert keys(found) == [*VISION, *FRAMES, *LIVE]
    rows = {row.name: row for row in found.computed}
    assert set(rows) == {
        *("encoding the clip", "merger, of encoding", "tokens kept", "tokens handed on", "break-even"),
        *("live, moving", "live, still"),
    }
    assert (found.about.tokens, found.about.steps, rows["tokens kept"].value) == (18, 4, 50.0)
    assert rows["tokens handed on"].how == "1.7 KiB instead of 3.4 KiB"
    assert rows["break-even"].value == pytest.approx(1e3 * found.figure("merger").times.median / 18, rel=1e-3)
    assert "Merging keeps 50 % of the tokens and adds" in out
    assert found.runner.by == "CPUExecutionProvider"
    assert found.figure("live step", "still").parts.keys() == {"push", "merge"}
    assert all(figure.counts is None for figure in found.figures)


def test_a_decoder_that_merges_above_layer_0(language_bundle, tmp_path, capsys):
    found, _ = measured(capsys, language_bundle, tmp_path)
    assert keys(found) == [*VISION, *LANGUAGE, *FRAMES, *LIVE]
    assert {"first token, all tokens, full buffers", "decode, full buffers"} <= {row.name for row in found.computed}
    assert found.figure("first token", "merged").parts.keys() == {"layers below", "merger", "layers above", "head"}
    assert found.figure("first token", "all tokens").parts.keys() == {"layers below", "layers above", "head"}
    assert "frames to features" in found.figure("pipeline", "merged").parts
    assert any("so the figure is a lower bound" in note for note in found.notes)
    assert (found.about.merge_layer, found.about.layers, found.about.weights) == (2, 3, "float")


def test_int4_weights_that_merge_at_layer_0_on_a_video(tmp_path, capsys):
    more = ("--decoder-precision", "int4")
    bundle = export_asked(tmp_path, layer=0, precision="fp16", model=int4_model(), more=more)
    refused = bench(capsys, bundle, "--output", tmp_path / "a.json", *QUICK)
    assert refused[0] == 2
    assert "has no fixture of vision_encoder" in refused[2]
    assert refused[2].endswith("give --video FILE.")
    video = write_video(tmp_path / "clip.mp4")
    found, _ = measured(capsys, bundle, tmp_path, "--video", video, "--fps", "2")
    assert keys(found) == [*VISION, *LANGUAGE, *FRAMES, *LIVE]
    assert "first token, all tokens, full buffers" not in {row.name for row in found.computed}
    assert found.about.weights == "int4"
    assert found.about.source.endswith("frames of clip.mp4")
    assert found.figure("first token", "merged").parts.keys() == {"merger", "layers above", "head"}


@pytest.fixture(scope="module")
def engines(tiny_bundle, tmp_path_factory):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    path = tmp_path_factory.mktemp("engines") / "tiny"
    shutil.copytree(tiny_bundle, path)
    shutil.rmtree(path / ENGINES / ORIN, ignore_errors=True)
    return build_on_orin(path)


WAYS = ("launched", "without copies", "one CUDA graph")
ENGINE = ("--engine", "--target", ORIN, "--threads", "0")


def test_engines_are_timed_by_the_gpu_in_all_ways_and_counted(orin, engines, tmp_path, capsys):
    orin.knob(kernels="2+3")
    found, out = measured(capsys, engines, tmp_path, *ENGINE)
    assert keys(found)[:6] == [f"{name}, {way}" for name in VISION for way in WAYS]
    assert {figure.clock for figure in found.figures[:6]} == {"gpu"}
    counts = {figure.key: figure.counts for figure in found.figures}
    # One input and one output; four inputs and eight outputs.
    for name, copies in (("encoder", 2), ("merger", 12)):
        assert [counts[f"{name}, {way}"] for way in WAYS] == [
            Counts(5, 5, copies, 1),
            Counts(5, 5, 0, 1),
            Counts(5, 1, 0, 1),
        ]
    assert counts["pipeline, merged"].kernels is counts["pipeline, merged"].launches is None
    assert counts["pipeline, merged"].synchronizations > 0
    assert counts["live step, still"].copies < counts["live step, moving"].copies, "nothing was encoded"
    assert found.runner.target == ORIN
    assert "Counted at the driver" in out
    assert orin.driver.live() == {}


def test_engines_of_a_pipeline_are_launched_as_cuda_graphs(orin, engines, tmp_path, capsys):
    found, _ = measured(capsys, engines, tmp_path, *ENGINE, "--cuda-graph")
    assert found.runner.cuda_graph
    # Two batches of the encoder, and the merger.
    assert found.figure("pipeline", "merged").counts.launches == 3
    assert found.figure("live step", "still").counts.launches == 1
    assert orin.driver.live() == {}


def test_an_engine_that_cannot_be_captured_is_said(orin, engines, tmp_path, capsys):
    orin.knob(no_capture="yes")
    found, _ = measured(capsys, engines, tmp_path, *ENGINE)
    assert keys(found)[:4] == [f"{name}, {way}" for name in VISION for way in WAYS[:2]]
    assert any("vision_encoder.engine cannot be captured as a CUDA graph" in note for note in found.notes)
    assert all(figure.counts is None for figure in found.figures if figure.clock == "gpu")
    assert orin.driver.live() == {}


def test_two_results_are_compared(tiny_bundle, tmp_path, capsys):
    first = tmp_path / "found.json"
    measured(capsys, tiny_bundle, tmp_path, "--runs", "5", "--seconds", "2")
    data = json.loads(first.read_text())
    for figure in data["figures"]:
        figure["times"] = {name: value * 2 if name != "runs" else value for name, value in figure["times"].items()}
        figure["times"]["lower"] = figure["times"]["upper"] = figure["times"]["median"]
    slower = tmp_path / "slower.json"
    slower.write_text(json.dumps(data))
    code, out, _ = bench(capsys, "--compare", first, first, "--fail-above", "0")
    assert code == 0
    assert "slower" not in out.split("slower and faster")[0]
    code, out, _ = bench(capsys, "--compare", first, slower)
    assert (code, "2.000" in out) == (0, True)
    code, _, err = bench(capsys, "--compare", first, slower, "--fail-above", "50")
    assert (code, "Slower by more than 50 % and beyond noise: " in err) == (1, True)
    slower.write_text(json.dumps(data | {"about": data["about"] | {"budget": 0.3}}))
    code, out, _ = bench(capsys, "--compare", first, slower)
    assert (code, "not comparable, as they differ in budget (0.5 and 0.3)." in " ".join(out.split())) == (0, True)
    code, _, err = bench(capsys, "--compare", first, slower, "--fail-above", "50")
    assert (code, "not comparable" in err) == (2, True)


REFUSED = {
    "There is nothing to measure; give a bundle": [],
    "--fail-above is about two results": ["BUNDLE", "--fail-above", "5"],
    "--compare measures nothing, so --runs does nothing": ["--compare", "a.json", "b.json", "--runs", "3"],
    "so bundle does nothing": ["bundle", "--compare", "a.json", "b.json"],
    "a.json is no result of bench (there is no such file)": ["--compare", "a.json", "b.json"],
    "--fail-above -1 is not possible": ["--compare", "a.json", "b.json", "--fail-above", "-1"],
    "--fail-above nan is not possible": ["--compare", "a.json", "b.json", "--fail-above", "nan"],
    "--runs 0 is not possible": ["BUNDLE", "--runs", "0"],
    "--seconds nan is not possible": ["BUNDLE", "--seconds", "nan"],
    "--threads -1 is not possible": ["BUNDLE", "--threads", "-1"],
    "--threads is about ONNX Runtime": ["BUNDLE", "--engine", "--threads", "2"],
    "--fps says how a video is sampled": ["BUNDLE", "--fps", "2"],
    "--output a.txt is no .json file": ["BUNDLE", "--output", "a.txt"],
    "--plot a.png is no .svg file": ["BUNDLE", "--plot", "a.png"],
    "--engine runs TensorRT engines and --provider cpu": ["BUNDLE", "--engine", "--provider", "cpu"],
    "would lie in the bundle": ["BUNDLE", "--output", "BUNDLE/a.json"],
    "The bundle has no engines for 'nowhere'": ["BUNDLE", "--engine", "--target", "nowhere"],
    "policy budget, which solves it": ["BUNDLE", "--temporal-threshold", "0.5"],
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_possible_is_refused_before_any_work(tiny_bundle, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    arguments = [word.replace("BUNDLE", str(tiny_bundle)) for word in REFUSED[words]]
    code, out, err = bench(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not list(tmp_path.iterdir())


def test_a_whole_run_imports_no_torch(tiny_bundle, tmp_path):
    code = (
        "import sys; from sttm_export.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'onnx'} & set(sys.modules); sys.exit(f'{heavy}' if heavy else code)"
    )
    arguments = ["bench", str(tiny_bundle), "--output", str(tmp_path / "a.json"), *QUICK]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
