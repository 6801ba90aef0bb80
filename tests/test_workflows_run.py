"""Where `run` and `validate --json` write: never over what they read, never into a bundle, both files or none."""

import argparse
import errno
import os
import shutil
from pathlib import Path

import pytest
from helpers_bundles import contents, make_bundle

from sttm_export.cli import main
from sttm_export.commands import validate
from sttm_export.errors import UserError
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.workflows import run as running
from sttm_export.workflows.run import Request, check_request


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a video, other names of it, and a bundle."""
    monkeypatch.chdir(tmp_path)
    Path("video.mp4").write_text("video")
    os.link("video.mp4", "hard.npz")
    Path("soft.npz").symlink_to("video.mp4")
    make_bundle(tmp_path / "bundle")
    Path("into").symlink_to("bundle")
    Path("pointer.npz").symlink_to("bundle/a.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "picture", "message"),
    [
        ("video.mp4", "a.png", "--output video.mp4 is the video"),
        ("hard.npz", "a.png", "--output hard.npz is the video"),
        ("soft.npz", "a.png", "--output soft.npz is the video"),
        ("a.npz", "video.mp4", "--picture video.mp4 is the video"),
        ("tokens.png", "tokens.png", "--picture tokens.png is the --output tokens.png"),
        ("a", "../{here}/a", "is the --output a"),
        ("bundle/a.onnx", "a.png", "--output bundle/a.onnx would lie in the bundle"),
        ("bundle/new.npz", "a.png", "would lie in the bundle"),
        ("bundle/fixtures/../new.npz", "a.png", "would lie in the bundle|a directory that exists"),
        ("into/new.npz", "a.png", "would lie in the bundle"),
        ("pointer.npz", "a.png", "would lie in the bundle"),
        ("a.npz", "bundle/tokens.png", "--picture bundle/tokens.png would lie in the bundle"),
        ("/dev/null", "a.png", "no regular file"),
        ("absent/a.npz", "a.png", "a directory that exists"),
    ],
)
def test_refusals(place, output, picture, message):
    before = contents(place)
    with pytest.raises(UserError, match=message):
        check_request(Request(Path("video.mp4"), Path(output), Path(picture.format(here=place.name))))
    assert contents(place) == before


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"overlay": "a.avi"}, r"--overlay a\.avi is no \.mp4 file, .*such as overlay\.mp4"),
        ({"overlay": "a"}, r"is no \.mp4 file"),
        ({"overlay": "mp4"}, r"is no \.mp4 file"),
        ({"overlay": "video.mp4"}, "--overlay video.mp4 is the video"),
        ({"overlay": "bundle/a.mp4"}, "--overlay bundle/a.mp4 would lie in the bundle"),
        ({"overlay": "absent/a.mp4"}, "a directory that exists"),
        ({"report": "a.pdf"}, r"--report a\.pdf is no \.html file, .*such as report\.html"),
        ({"report": "bundle/report.html"}, "--report bundle/report.html would lie in the bundle"),
    ],
)
def test_refusals_of_what_is_written_on_request(place, further, message):
    before = contents(place)
    paths = {name: Path(path) for name, path in further.items()}
    with pytest.raises(UserError, match=message):
        check_request(Request(Path("video.mp4"), Path("a.npz"), Path("a.png"), **paths))
    assert contents(place) == before
    check_request(Request(Path("video.mp4"), Path("a.npz"), Path("a.png"), Path("A.MP4"), Path("a.HTML")))


def test_a_report_of_a_clip(tiny_bundle, tmp_path, capsys):
    clip, out = str(find_sample_clip("carphone")), tmp_path / "clip.html"
    command = ["run", str(tiny_bundle), "--video", clip, "--output", str(tmp_path / "a.npz"), "--report", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [str(tmp_path / "a.npz"), str(tmp_path / "a.png"), str(out)]
    html = out.read_text(encoding="utf-8")
    for text in (
        "<h1>carphone_pristine.mp4</h1>",
        "Random weights, seed 7",
        "stand for the 36 cells of carphone_pristine.mp4",
        "Similarities and thresholds",
        "Fidelity of this clip",
        'id="clip"',
    ):
        assert text in html, text
    # What is said of the bundle is not said of the clip.
    for text in ("checks passed", "Engines", "Files", "Stages"):
        assert text not in html, text


def test_other_names_are_fine(place):
    Path("old.npz").write_text("an earlier result")
    check_request(Request(Path("video.mp4"), Path("old.npz"), Path("old.png")))


def test_the_defaults_do_not_write_into_a_bundle(tiny_bundle, tmp_path, monkeypatch, capsys):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    before = contents(bundle)
    monkeypatch.chdir(bundle)
    assert main(["run", ".", "--video", str(find_sample_clip("carphone"))]) == 2
    assert "--output tokens.npz would lie in the bundle" in capsys.readouterr().err.splitlines()[-1]
    assert contents(bundle) == before


def test_a_disk_that_fills_up_leaves_the_earlier_result(tiny_bundle, tmp_path, monkeypatch, capsys):
    command = ["run", str(tiny_bundle), "--video", str(find_sample_clip("carphone"))]
    command += ["--output", str(tmp_path / "a.npz")]
    assert main(command) == 0
    before = contents(tmp_path)
    assert set(before) == {"a.npz", "a.png"}

    def full(file, _sheet):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running, "write_png", full)
    assert main([*command, "--spatial-threshold", "0.1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a.npz and " in error
    assert "No space left on device" in error
    assert "is as it was" in error
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("bundle/x.json", "would lie in the bundle"), ("checkpoint/config.json", "lies in the checkpoint")],
)
def test_json_is_not_written_over_what_is_read(place, name, message):
    Path("checkpoint").mkdir()
    Path("checkpoint/config.json").write_text("{}")
    options = argparse.Namespace(json=Path(name), weights="checkpoint", tower_weights=None)
    with pytest.raises(UserError, match=message):
        validate._check_json(options)
    options.json = Path("found.json")
    validate._check_json(options)
