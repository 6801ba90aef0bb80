"""`sttm-export calibrate` from end to end: what it writes, whatever is given, and whatever ends it."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers_bundles import contents, make_bundle
from helpers_calibrate import FRAMES, WEIGHTS, calibrate, quick_toml, write_clips
from helpers_networks import tiny_model, tiny_state, write_checkpoint, write_tiny_model_toml
from helpers_qwen2_vl import model_of, tiny_qwen

from sttm_export.calibration import run as running
from sttm_export.calibration.kept import KeptClips
from sttm_export.calibration.seeing import Eyes
from sttm_export.cli import main
from sttm_export.contracts.calibration import read_calibration


@pytest.fixture(scope="module")
def toml(tmp_path_factory):
    return quick_toml(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toml, clips):
    """The file that all three clips give."""
    output = tmp_path_factory.mktemp("whole") / "whole.json"
    assert calibrate(toml, output, *clips) == 0
    return output


@pytest.fixture
def refused(toml, clips, tmp_path, capsys):
    """Run what must fail; returns its message."""

    def run(*given, more=(), weights=WEIGHTS, model=toml, output="new/out.json", code=2):
        (tmp_path / "new").mkdir(exist_ok=True)
        before = contents(tmp_path)
        assert calibrate(model, tmp_path / output, *given, more=more, weights=weights) == code
        assert contents(tmp_path) == before, "something was left behind or changed"
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("sttm-export: ")
        assert "Traceback" not in message
        return message

    return run


def test_the_file_is_what_its_contract_says(whole, clips):
    made = read_calibration(whole)
    assert made.to_text() == whole.read_text()
    assert {clip.name for clip in made.clips} == {path.name for path in clips}
    assert [clip.sha256 for clip in made.clips] == sorted(clip.sha256 for clip in made.clips)
    assert sorted(clip.frames for clip in made.clips) == [3, 4, 4]  # a second each, and the last; at most T
    assert [(row.budget, row.frames, row.merge_layer) for row in made.thresholds] == [(0.5, 4, 0), (0.3, 4, 0)]
    assert {point.name for point in made.points} >= {"tower.layers.0.qkv", "projector.fc2"}
    assert not whole.with_name("whole.json.partial").exists()
    assert [path.name for path in whole.parent.iterdir()] == ["whole.json"]


def test_the_order_of_clips_and_budgets_does_not_matter(whole, toml, clips, tmp_path):
    a, b, c = clips
    (tmp_path / "list.txt").write_text(f"{b}\n{a}\n")
    for number, given in enumerate([(c, b, a), (tmp_path / "list.txt", c.parent)]):
        budgets = ["--budget", "0.3", "--budget", "0.5"] if number else []
        assert calibrate(toml, tmp_path / f"{number}.json", *given, more=budgets) == 0
        assert (tmp_path / f"{number}.json").read_bytes() == whole.read_bytes()


def test_a_clip_twice_and_a_bad_one(whole, toml, clips, tmp_path, capsys):
    """Each is said aloud, and neither changes what the others give."""
    (tmp_path / "broken.mp4").write_text("this is no video")
    twice = tmp_path / "zwilling.mp4"
    twice.write_bytes(clips[0].read_bytes())
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.txt").write_text("broken.mp4\nempty.mp4\ngone.mp4\n")
    assert calibrate(toml, tmp_path / "out.json", twice, *clips, clips[1], tmp_path / "list.txt") == 0
    assert (tmp_path / "out.json").read_bytes() == whole.read_bytes()
    captured = capsys.readouterr()
    assert re.search(r"a\.mp4 has the same content as .*zwilling\.mp4; it counts once", captured.err)
    assert re.search(r"b\.mp4 is given twice; it counts once", captured.err)
    for words in (r"broken\.mp4 cannot be read", r"empty\.mp4 is empty", r"gone\.mp4 is not there"):
        assert re.search(rf"FAILED: .*{words}", captured.err)
    assert "3, 11 frames; 3 clips FAILED" in captured.out


def test_bad_clips_alone_are_refused(refused, tmp_path):
    (tmp_path / "broken.mp4").write_text("this is no video")
    assert "No clip can be read, of 1; give clips that play; the first: " in refused(tmp_path / "broken.mp4")


def test_without_clips_there_is_a_way_on(refused, toml, capsys):
    assert "python -m sttm_export.runtime.sample_clips" in refused()
    assert main(["calibrate", "--model", str(toml), *WEIGHTS, "--clips"]) == 2
    assert "There are no clips" in capsys.readouterr().err


def test_impossible_values(refused, clips):
    def more(*words):
        return refused(*clips, more=words)

    assert "a budget of 1.5 is outside (0, 1]" in more("--budget", "1.5")
    assert "too few for a budget of 0.1" in more("--budget", "0.5", "--budget", "0.1")
    assert "frames are outside" in more("--frames", "0")
    assert "--fps 0 is not possible" in more("--fps", "0")
    assert "--fps nan is not possible" in more("--fps", "nan")
    assert "--merge-layer 99 is not possible; give a layer" in more("--merge-layer", "99")
    assert "--merge-layer -1 is not possible" in more("--merge-layer", "-1")


def test_weights_and_models_that_are_refused(refused, clips, tmp_path):
    assert "--random-weights SEED" in refused(*clips, weights=())
    assert "Unknown model" in refused(*clips, model="llava-vidoe-7b")
    write_checkpoint(tmp_path / "other", tiny_model(hidden=64), tiny_state(tiny_model(hidden=64), 0))
    assert "other" in refused(*clips, weights=("--weights", tmp_path / "other"))


def test_outputs_in_the_way(refused, whole, clips, tmp_path):
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "mine.json").write_bytes(whole.read_bytes())
    make_bundle(tmp_path / "bundle")
    mine = tmp_path / "clip.mp4"
    mine.write_bytes(clips[0].read_bytes())
    assert "mine.json exists already; choose another --output, or replace it with --force" in refused(
        *clips, output="mine.json"
    )
    assert "so --force does not replace it" in refused(*clips, output="other.json", more=["--force"])
    assert "would lie in the bundle" in refused(*clips, output="bundle/out.json")
    assert "a directory that exists" in refused(*clips, output="none/out.json")
    assert "a directory that exists" in refused(*clips, output="bundle")
    assert "too long" in refused(*clips, output="n" * 220)
    assert "is the clip" in refused(mine, output="linked.json") if _linked(mine, tmp_path) else True


def _linked(clip, directory):
    os.link(clip, directory / "linked.json")
    return False  # it exists already, which is refused before


def test_a_calibration_is_replaced_by_force(whole, toml, clips, tmp_path):
    (tmp_path / "out.json").write_bytes(whole.read_bytes())
    assert calibrate(toml, tmp_path / "out.json", clips[0], more=["--force"]) == 0
    assert len(read_calibration(tmp_path / "out.json").clips) == 1


# What ends it early.


@pytest.fixture
def begun(toml, clips, tmp_path, monkeypatch, capsys):
    """A calibration that was interrupted before its last clip: its output."""
    output, finished = tmp_path / "out.json", []
    measure = running._Measuring.measure

    def interrupted(self, *arguments):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(1)
        return measure(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(running._Measuring, "measure", interrupted)
        assert calibrate(toml, output, *clips) == 130
    error = capsys.readouterr().err
    assert "interrupted; the same command goes on after the clips that are finished" in error
    assert not output.exists()
    return output


def test_it_goes_on_after_the_last_finished_clip(begun, whole, toml, clips, capsys):
    assert calibrate(toml, begun, *clips) == 0
    error = capsys.readouterr().err
    assert "2 of 3 clips were finished earlier" in error
    assert error.count("frames, ") == 1
    assert begun.read_bytes() == whole.read_bytes()
    assert [path.name for path in begun.parent.iterdir()] == ["out.json"]


def test_other_settings_are_refused_and_begun_anew_by_force(begun, toml, clips, refused, capsys):
    kept = begun.with_name("out.json.partial")
    for more, name in (
        (["--budget", "0.4"], "--budget"),
        (["--fps", "2"], "--fps"),
        (["--merge-layer", "1"], "weights and --merge-layer"),
    ):
        message = refused(*clips, output="out.json", more=more)
        assert (
            f"holds clips of an earlier calibration with other {name}; give what it was begun with to go on" in message
        )
    assert "with other weights;" in refused(*clips, output="out.json", weights=("--random-weights", "8"))
    assert calibrate(toml, begun, clips[0], more=["--budget", "0.4", "--force"]) == 0
    assert "finished earlier" not in capsys.readouterr().err
    assert [row.budget for row in read_calibration(begun).thresholds] == [0.4]
    assert not kept.exists()


def test_what_is_not_of_a_calibration_is_left_alone(begun, clips, refused, tmp_path):
    kept = begun.with_name("out.json.partial")
    (kept / "diary.txt").write_text("mine")
    for more in ((), ("--force",), ("--force", "--budget", "0.4")):
        assert "holds 'diary.txt', which is not of a calibration" in refused(*clips, output="out.json", more=more)
    (tmp_path / "new.json.partial").write_text("a file")
    assert "is no directory" in refused(*clips, output="new.json")


def test_damage_to_what_is_kept(begun, whole, toml, clips, refused):
    """What cannot be read is measured again, or named."""
    kept = begun.with_name("out.json.partial")
    (first, second) = sorted(kept.glob("*.npz"))
    text = first.with_suffix(".json").read_text()
    first.with_suffix(".json").write_text(text[:-20])
    second.unlink()
    assert calibrate(toml, begun, *clips) == 0
    assert begun.read_bytes() == whole.read_bytes()


def test_an_interrupt_before_the_first_clip_leaves_nothing(toml, clips, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running._Measuring, "measure", interrupted)
    assert calibrate(toml, tmp_path / "out.json", *clips) == 130
    assert "interrupted; nothing was left behind" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


STALLED = """
import sys, time
from sttm_export.calibration import kept
from sttm_export.quantization.statistics import ActivationStatistics

def stall(*_):
    print("stalled", file=sys.stderr, flush=True)
    time.sleep(600)

calls = []
def half_written(self, file):
    if calls:
        file.write(b"PK half of a file")
        file.flush()
        stall()
    calls.append(1)
    save(self, file)

save = ActivationStatistics.save
{plant}
from sttm_export.cli import main
sys.exit(main(sys.argv[1:]))
"""
PLANTED = {
    "while the second clip's statistics are written": "ActivationStatistics.save = half_written",
    "between the file and the end": "kept.KeptClips.remove = stall",
}


@pytest.mark.parametrize("point", PLANTED)
def test_a_killed_process_breaks_nothing(toml, clips, tmp_path, capsys, point):
    """SIGKILL to a real process; what it has left is taken up, and the whole is what it would have been."""
    output = tmp_path / "out.json"
    words = ["calibrate", "--model", toml, *WEIGHTS, "--frames", FRAMES, "--output", output, "--clips", *clips]
    command = [sys.executable, "-c", STALLED.format(plant=PLANTED[point]), *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "stalled\n")
    assert all(lines)
    # One at a time: the lock goes with the process.
    assert calibrate(toml, output, *clips, more=["--force"]) == 2
    assert "Another calibration is making" in capsys.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    done = point == "between the file and the end"
    assert output.exists() == done
    assert calibrate(toml, output, *clips, more=["--force"] if done else []) == 0
    assert f"{3 if done else 1} of 3 clips were finished earlier" in capsys.readouterr().err
    made = read_calibration(output)
    assert len(made.clips) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


# The model above its encoder.


def test_hidden_states_at_the_merge_layer_are_those_of_the_published_layers(toml, clips):
    """Module against `transformers`' own layers, with the text before the video in front."""
    from sttm_export.calibration.seeing import seen_parts
    from sttm_export.cli import build_parser
    from sttm_export.commands.calibrate import make_request
    from sttm_export.families.stage_session import StageSession
    from sttm_export.families.weights import open_weights

    words = [
        "calibrate",
        "--model",
        str(toml),
        *WEIGHTS,
        "--frames",
        "4",
        "--merge-layer",
        "2",
        "--clips",
        str(clips[0]),
    ]
    request = make_request(build_parser().parse_args(words))
    eyes = Eyes(request.recipe, None, 7, None, lambda *_: None)
    pixels = np.random.default_rng(0).standard_normal((3, 3, 84, 84), np.float32)
    made, _ = eyes.see("noise", "0" * 64, pixels, lambda *_: None)

    parts = seen_parts(request.recipe)
    weights = open_weights(request.model, {name: row for part in parts for name, row in part.shapes.items()}, None, 7)
    clip = {"pixel_values": pixels, "system": eyes._system}
    assert len(eyes._system) > 4
    for part in parts:
        stage = part.reference(weights.read(part.shapes))
        clip |= part.forward(StageSession(stage, part.graph), clip, lambda *_: None)
    assert made.shape == (3, 36, 48)
    difference = np.linalg.norm(made - clip["features"]) / np.linalg.norm(clip["features"])
    assert difference < 1e-3
    assert not np.allclose(made, np.roll(made, 1, axis=0), atol=0.1)


def test_a_merge_layer_above_0(toml, clips, whole, tmp_path, capsys):
    assert calibrate(toml, tmp_path / "out.json", *clips[:2], more=["--merge-layer", "2"]) == 0
    made, flat = read_calibration(tmp_path / "out.json"), read_calibration(whole)
    assert {row.merge_layer for row in made.thresholds} == {2}
    assert made.weights_sha256 == flat.weights_sha256
    assert "the input of decoder layer 2" in capsys.readouterr().out


def test_features_that_are_not_finite_are_refused(refused, clips, monkeypatch):
    def spoiled(*_):
        return "1 of 9 values are not finite"

    monkeypatch.setattr("sttm_export.calibration.seeing.nonfinite", spoiled)
    assert "makes features of which 1 of 9 values are not finite" in refused(*clips)


def test_kept_settings_are_plain(tmp_path):
    """Floats and tuples compare as they come back from JSON."""
    settings = {"--budget": [[0.3, (0.1, 0.2)]], "--fps": None, "--frames": 4}
    KeptClips(tmp_path / "a.partial", settings, False)
    KeptClips(tmp_path / "a.partial", settings, False)
    assert json.loads((tmp_path / "a.partial" / "settings.json").read_text())["--fps"] is None


def test_a_model_that_makes_a_step_of_two_frames(clips, tmp_path, refused):
    """T is in steps; 14 frames at 4 a second are 8 frames, 4 steps."""
    toml = write_tiny_model_toml(tmp_path / "qwen.toml", model_of(tiny_qwen(rows=6, columns=8)))
    assert "no multiple of the 2 frames" in refused(*clips, model=toml, more=["--frames", "7"])
    assert calibrate(toml, tmp_path / "out.json", *clips, more=["--frames", "8", "--fps", "4"]) == 0
    made = read_calibration(tmp_path / "out.json")
    assert {(row.budget, row.frames) for row in made.thresholds} == {(0.5, 4), (0.3, 4)}
    assert sorted(clip.frames for clip in made.clips) == [6, 8, 8]
    assert made.points[-1].name == "merger.mlp.2"
