"""`live` against `run`: the same frames give the same windows, bit by bit; and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_bundles import contents
from helpers_serving import HttpServer, RtspServer, access_units, free_port, lossless, moving, mpegts

from sttm_export.cli import main
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import read_video, uniform_sampler
from sttm_export.streams.video_file import VideoFile

RATE = 10
# Frames of a clip, some of them standing still for a while: each number stays for as many frames as it is written.
STAYS = (0, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 5, 5, 5, 6, 7, 8)


@pytest.fixture(scope="module")
def frames():
    """Real frames, some of them standing still."""
    clip = read_video(find_sample_clip("carphone"), uniform_sampler(10**6))
    return [clip.frames[number] for number in STAYS]


def live(bundle, source, output, *options):
    """Run it; the windows in order."""
    command = ["live", str(bundle), "--source", str(source), "--output", str(output), "--fps", str(RATE)]
    assert main([*command, *map(str, options)]) == 0
    return [np.load(path) for path in sorted(Path(output).iterdir())]


def ran(bundle, source, folder):
    """What `run` makes of all frames of a file."""
    output = folder / "run.npz"
    assert main(["run", str(bundle), "--video", str(source), "--output", str(output), "--fps", str(RATE)]) == 0
    return np.load(output)


def assert_same(window, whole, start):
    """Every array of `run`; frames and times of a part begin at its first one."""
    for name in whole.files:
        expected, found = whole[name], window[name]
        if name == "frame_indices":
            found = found - start
        if name == "timestamps":
            assert np.allclose(found - found[0], expected, atol=1e-6)
            continue
        assert found.dtype == expected.dtype, name
        assert np.array_equal(found, expected), (name, start)


@pytest.mark.usefixtures("exact_places")
def test_windows_are_those_of_run(tiny_bundle, frames, tmp_path):
    """A batch of two, windows of up to four frames that begin anywhere, features reused where frames stand still."""
    windows = live(tiny_bundle, lossless(tmp_path / "all.mkv", frames), tmp_path / "windows", "--every", 1)
    assert len(windows) == len(frames)
    assert [window["frame_indices"].tolist() for window in windows[:5]] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [1, 2, 3, 4],
    ]
    counts = json.loads(str(windows[-1]["record"]))["counts"]
    assert counts == {"frames": 17, "encoded": 9, "reused": 8}
    for end in (1, 3, 5, 6, 12, 17):
        start = max(0, end - 4)
        part = lossless(tmp_path / "part.mkv", frames[start:end])
        assert_same(windows[end - 1], ran(tiny_bundle, part, tmp_path), start)


@pytest.mark.usefixtures("exact_places")
def test_frames_that_are_not_reused_give_the_same(tiny_bundle, frames, tmp_path):
    source = lossless(tmp_path / "all.mkv", frames)
    reused = live(tiny_bundle, source, tmp_path / "a", "--every", 3)
    encoded = live(tiny_bundle, source, tmp_path / "b", "--every", 3, "--still-tolerance", "off")
    assert json.loads(str(encoded[-1]["record"]))["counts"]["reused"] == 0
    for one, other in zip(reused, encoded, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one.files if name != "record")


def test_a_tolerance_reuses_what_noise_alone_changed(tiny_bundle, frames, tmp_path):
    rng = np.random.default_rng(0)
    still = [np.clip(frames[0].astype(int) + rng.integers(-3, 4, frames[0].shape), 0, 255) for _ in range(6)]
    source = lossless(tmp_path / "noise.mkv", [frame.astype(np.uint8) for frame in still])
    for tolerance, encoded in (("0", 6), ("6", 1)):
        windows = live(tiny_bundle, source, tmp_path / tolerance, "--still-tolerance", tolerance)
        assert json.loads(str(windows[-1]["record"]))["counts"]["encoded"] == encoded


@pytest.mark.usefixtures("exact_places")
@pytest.mark.parametrize("kind", ["http", "rtsp"])
def test_a_stream_on_the_loopback_gives_what_run_makes_of_its_frames(tiny_bundle, tmp_path, kind):
    """The same pictures as a file and as a stream; of RTSP the first one has no time yet, and is left out."""
    data, pictures = mpegts(moving(5), RATE), access_units(moving(5), RATE)
    (tmp_path / "stream.ts").write_bytes(data)
    first = 0 if kind == "http" else 1
    with HttpServer([data]) if kind == "http" else RtspServer(pictures, rate=RATE) as server:
        windows = live(tiny_bundle, server.url(), tmp_path / "windows", "--windows", 1)
    decoded = [frame.rgb for frame in VideoFile(tmp_path / "stream.ts", print).frames()]
    part = lossless(tmp_path / "part.mkv", decoded[first : first + 4])
    assert_same(windows[0], ran(tiny_bundle, part, tmp_path), first)
    stream = json.loads(str(windows[0]["record"]))["stream"]
    assert (stream["dropped"], stream["reopened"], stream["corrupt"]) == (0, 0, 0)
    assert 0 < stream["latency"] < 30


def test_a_file_played_as_a_camera(tiny_bundle, tmp_path):
    """At its own speed: 1.2 seconds of frames take at least as long, and windows are those of the file."""
    source = lossless(tmp_path / "a.mkv", moving(13))
    fast = live(tiny_bundle, source, tmp_path / "fast", "--every", 2)
    paced = live(tiny_bundle, source, tmp_path / "paced", "--every", 2, "--pace", "--queue", 20)
    assert len(fast) == len(paced) == 7
    for one, other in zip(fast, paced, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one.files if name != "record")


def test_a_stream_that_breaks_off_and_changes_goes_on(tiny_bundle, tmp_path, capfd):
    """Damage and another size in mid-stream, a break, and the end: a record says each, and no frame counts twice."""
    units, other = access_units(moving(12), RATE), access_units(moving(8, 96, 32), RATE)
    scripts = [[*units[:8], "damage", *units[8:]], other]
    with RtspServer(*scripts, rate=RATE) as server:
        options = ("--every", 4, "--windows", 4, "--queue", 50)
        windows = live(tiny_bundle, server.url("me:secret@"), tmp_path / "w", *options)
    said = capfd.readouterr()
    assert "broke off: the stream ended; try 1 to open it again in 1 s" in said.err
    assert "is back after" in said.err
    assert "changes its size from 64×48 to 96×32" in said.err
    assert "1 reopened" in said.out
    assert "secret" not in said.err + said.out
    numbers = [number for window in windows for number in window["frame_indices"][-4:].tolist()]
    assert numbers == sorted(set(numbers))
    times = np.concatenate([window["timestamps"][-4:] for window in windows])
    assert (np.diff(times) >= 0).all()
    record = json.loads(str(windows[-1]["record"]))
    assert record["stream"]["reopened"] == 1
    assert record["stream"]["corrupt"] >= 1


def test_it_needs_neither_pytorch_nor_onnx(tiny_bundle, tmp_path):
    source = lossless(tmp_path / "a.mkv", moving(2))
    words = ["live", str(tiny_bundle), "--source", str(source), "--output", str(tmp_path / "w")]
    code = f"import sys\nfrom sttm_export.cli import main\nassert main({words!r}) == 0\n"
    code += "sys.exit(str({'torch', 'transformers', 'onnx', 'onnx_ir'} & set(sys.modules) or '') or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_one_file_holds_the_newest_window(tiny_bundle, tmp_path):
    source, output = lossless(tmp_path / "a.mkv", moving(9)), tmp_path / "newest.npz"
    assert main(["live", str(tiny_bundle), "--source", str(source), "--output", str(output), "--fps", "10"]) == 0
    assert np.load(output)["frame_indices"].tolist() == [5, 6, 7, 8]


def test_the_newest_windows_are_kept(tiny_bundle, tmp_path):
    source = lossless(tmp_path / "a.mkv", moving(12))
    windows = live(tiny_bundle, source, tmp_path / "w", "--every", 2, "--keep", 2)
    assert [window["frame_indices"][-1] for window in windows] == [9, 11]


@pytest.mark.usefixtures("exact_places")
def test_merging_inside_the_language_model(language_bundle, tmp_path):
    """Layers below the merge layer run for every window."""
    source = lossless(tmp_path / "a.mkv", moving(4))
    windows = live(language_bundle, source, tmp_path / "w")
    assert_same(windows[0], ran(language_bundle, source, tmp_path), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "0"], "--every 0 is not possible"),
        (["--every", "5"], "--every 5 is more than the 4 frames of a window"),
        (["--window", "5"], "A window of 5 frames is not possible; give 1 to 4"),
        (["--window", "0"], "--window 0 is not possible"),
        (["--still-tolerance", "256"], "still tolerance of 256 is not possible"),
        (["--still-tolerance", "a"], "--still-tolerance a is none"),
        (["--keep", "0"], "--keep 0"),
        (["--windows", "0"], "--windows 0"),
        (["--queue", "0"], "--queue 0"),
        (["--timeout", "0"], "--timeout 0"),
        (["--timeout", "nan"], "--timeout nan"),
        (["--retries", "-1"], "--retries -1"),
        (["--fps", "0"], "--fps 0"),
        (["--temporal-threshold", "0.5"], "--temporal-threshold does nothing here"),
        (["--provider", "nobody"], "nobody"),
        (["--target", "rtx"], "give --engine with them"),
        (["--output", "nowhere/w"], "is no directory, nor in one"),
        (["--output", "a.mkv"], "is no directory"),
        (["--output", "bundle/windows"], "would lie in the bundle"),
        (["--output", "bundle"], "would lie in the bundle"),
        (["--output", "bundle/w.npz"], "would lie in the bundle"),
        (["--output", "w.npz", "--keep", "1"], "--keep is about windows in a directory"),
        (["--source", "none.mp4"], "There is no video at none.mp4"),
        (["--source", "."], "is a directory"),
        (["--source", "/dev/video77"], "There is no camera at /dev/video77"),
        (["--source", "/dev/null"], "Cannot open /dev/null"),
        (["--source", "rtmp://me:secret@x"], "Sources cannot be read by 'rtmp://'"),
        (["--source", "rtsp://me:secret@127.0.0.1:{port}/a"], "Cannot open rtsp://me:***@127.0.0.1:{port}/a"),
        (["--source", "rtsp://me:secret@x/a", "--pace"], "has its own; leave it out"),
    ],
)
def test_refusals(tiny_bundle, tmp_path, monkeypatch, capfd, options, message):
    """One sentence, exit code 2, and nothing written."""
    monkeypatch.chdir(tmp_path)
    port = str(free_port())
    lossless(tmp_path / "a.mkv", moving(2))
    shutil.copytree(tiny_bundle, "bundle")
    before = contents(tmp_path)
    command = ["live", "bundle", "--source", "a.mkv", "--output", "windows", *options]
    assert main([word.replace("{port}", port) for word in command]) == 2
    said = capfd.readouterr()
    assert message.replace("{port}", port) in said.err
    assert "Traceback" not in said.err
    assert "secret" not in said.err
    after = contents(tmp_path)
    assert {name: data for name, data in after.items() if name != "windows"} == before
    assert after.get("windows") is None
