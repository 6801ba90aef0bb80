"""`bash device/run.sh` on a pretended Orin: raw frames in, windows out, with NumPy and TensorRT alone."""

import contextlib
import errno
import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_children import wait_until
from helpers_kit import REAL, block_packages, kit_environment
from helpers_standins import ORIN

from sttm_export.bundle.opened import open_bundle
from sttm_export.cli import main
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.kit import run_main
from sttm_export.pipeline.backend import ENGINE, choose_backend
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.merged import write_npz
from sttm_export.runtime.pipeline import encode_frames, merge_features
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import read_video, uniform_sampler
from sttm_export.streams.records import read_windows, window_arrays
from sttm_export.streams.window import Window

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")

HEIGHT, WIDTH, RATE = 40, 70, 4
SIZE = f"{WIDTH}x{HEIGHT}"


def moving(count):
    """Frames of noise that drifts over a picture that stays; two in a row are the same."""
    rng = np.random.default_rng(3)
    still = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = np.repeat(still[None], count, axis=0)
    for number, frame in enumerate(frames):
        seed = number - (number % 5 == 4)
        patch = np.random.default_rng(seed).integers(0, 256, (HEIGHT, 20, 3), dtype=np.uint8)
        frame[:, seed % 50 : seed % 50 + 20] = patch
    return frames


FRAMES = moving(14)


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    """Also without Pillow: frames are resized by NumPy."""
    return block_packages(tmp_path_factory.mktemp("blocked"))


@pytest.fixture(scope="module")
def environment(blocked):
    return functools.partial(kit_environment, blocked)


@pytest.fixture(scope="module")
def bundle(tiny_bundle, tmp_path_factory, environment):
    """With the engines that its kit has built."""
    copy = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("device") / "bundle")
    done = subprocess.run(
        ["bash", str(copy / "device" / "build.sh")], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


@pytest.fixture
def loader(bundle, orin):
    """The package's own way to the same engines."""
    opened = open_bundle(bundle)
    return Loader(opened, choose_backend(opened, ENGINE, ORIN))


def command(bundle, *options, frames="-"):
    start = ["bash", str(bundle / "device" / "run.sh"), "--frames", str(frames), "--size", SIZE, "--rate", str(RATE)]
    return [*start, "--fps", str(RATE), *map(str, options)]


def run(bundle, environment, *options, sent=FRAMES, frames="-", cwd=None, stdout=subprocess.PIPE):
    """Through a pipe."""
    data = sent if isinstance(sent, bytes) else sent.tobytes()
    done = subprocess.run(
        command(bundle, *options, frames=frames),
        input=data,
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        cwd=cwd,
    )
    done.stderr = done.stderr.decode()
    return done


def read_file(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def expected(loader, size, every, **options):
    """The same windows by the package's own window."""
    opened, windows = loader.bundle, []
    with loader.vision() as vision:
        window = Window(vision, opened.model.pixels, size=size, **options)
        for number, frame in enumerate(FRAMES):
            window.push(frame, number / RATE, number)
            if (number + 1) % every == 0 or number + 1 == len(FRAMES):
                windows.append(window.emit(opened.manifest.thresholds))
    return windows


def assert_equal(arrays, window):
    for name, array in window_arrays(window).items():
        assert arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_a_file_a_window_equals_the_packages_own(bundle, environment, loader, tmp_path):
    done = run(bundle, environment(), "--every", 3, "--output", "windows", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == ["windows"]
    windows = expected(loader, 4, 3)
    assert names(tmp_path / "windows") == [f"window-{number:06d}.npz" for number in range(1, len(windows) + 1)]
    for number, window in enumerate(windows, 1):
        arrays = read_file(tmp_path / "windows" / f"window-{number:06d}.npz")
        assert_equal(arrays, window)
        record = json.loads(str(arrays["record"]))
        assert record["frames"] == window.numbers.tolist()
        assert record["counts"]["reused"] == window.counts.reused
        assert record["stream"]["dropped"] == 0
    assert windows[-1].counts.reused == 2
    figures = r"5 windows, 12 frames encoded, 2 reused, 0 dropped, latency .*, in 0:0\d:\d\d of the pipe → windows\n"
    assert re.fullmatch(figures, done.stdout.decode())
    assert re.search(r"^0:0\d:\d\d  \d windows?, \d+ frames? encoded", done.stderr, re.MULTILINE)
    worth = "random weights, seed 7: the tokens prove the graphs, not the model\nwith tensorrt 10.3.0.30\n"
    assert done.stderr.startswith(worth)
    assert not list(bundle.rglob("__pycache__"))


@pytest.mark.usefixtures("exact_places")
def test_every_frame_in_one_window_equals_run(bundle, environment, loader, tmp_path):
    """By the way of `sttm-export run`: Pillow, the encoder over all frames, and the merger."""
    done = run(bundle, environment(), "--still-tolerance", "off", "--output", tmp_path / "windows")
    assert done.returncode == 0, done.stderr
    opened = loader.bundle
    thresholds = opened.manifest.thresholds
    for number, start in enumerate(range(0, len(FRAMES), 4), 1):
        part = FRAMES[start : start + 4]
        with loader.open(VISION_ENCODER) as session:
            values = pixel_values(part, opened.model.pixels)
            features = encode_frames(session, opened.graph(VISION_ENCODER), values)
        with loader.open(TOKEN_MERGER) as session:
            merged = merge_features(
                session, opened.merge, features, len(features), thresholds.spatial, thresholds.temporal
            )
        arrays = read_file(tmp_path / "windows" / f"window-{number:06d}.npz")
        # A window slides: the last has the newest four frames, two of which were in the one before.
        if start + 4 <= len(FRAMES):
            np.testing.assert_array_equal(arrays["tokens"], merged.tokens)
            np.testing.assert_array_equal(arrays["assignment"], merged.assignment)
            np.testing.assert_array_equal(arrays["frame_indices"], np.arange(start, start + 4))
            np.testing.assert_array_equal(arrays["timestamps"], np.arange(start, start + 4) / RATE)


@pytest.mark.usefixtures("exact_places")
def test_a_real_clip_equals_the_command_run(bundle, environment, orin, tmp_path, capsys):
    """What ffmpeg would pipe is decoded by PyAV here."""
    clip = find_sample_clip("bikes")
    video = read_video(clip, uniform_sampler(4))
    command = ["run", str(bundle), "--video", str(clip), "--engine", "--target", ORIN, "--fps", "25"]
    assert main([*command, "--output", str(tmp_path / "own.npz")]) == 0, capsys.readouterr().err
    height, width = video.frames.shape[1:3]
    start = ["bash", str(bundle / "device" / "run.sh"), "--frames", "-", "--size", f"{width}x{height}", "--rate", "1"]
    done = subprocess.run(
        [*start, "--output", str(tmp_path / "kit.npz")],
        input=video.frames.tobytes(),
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    own, kit = read_file(tmp_path / "own.npz"), read_file(tmp_path / "kit.npz")
    assert own["frame_indices"].tolist() == list(video.indices)
    for name in set(own) - {"timestamps", "frame_indices"}:
        np.testing.assert_array_equal(kit[name], own[name], err_msg=name)


def test_a_stream_on_the_pipe(bundle, environment, loader):
    done = run(bundle, environment(), "--every", 2, "--window", 3, "--output", "-")
    assert done.returncode == 0, done.stderr
    windows = expected(loader, 3, 2)
    for one, window in zip(read_windows(io.BytesIO(done.stdout)), windows, strict=True):
        assert_equal(one.arrays, window)
    assert done.stderr.splitlines()[-1].startswith("7 windows, 12 frames encoded, 2 reused, 0 dropped, latency ")


def test_one_file_from_a_file(bundle, environment, loader, tmp_path):
    (tmp_path / "frames.rgb").write_bytes(FRAMES.tobytes())
    options = "--windows", 2, "--cuda-graph", "--target", ORIN, "--output", "tokens.npz"
    done = run(bundle, environment(), *options, frames="frames.rgb", sent=b"", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == ["frames.rgb", "tokens.npz"]
    assert_equal(read_file(tmp_path / "tokens.npz"), expected(loader, 4, 4)[1])
    assert done.stdout.decode().startswith("2 windows, ")
    assert done.stdout.decode().endswith(" of frames.rgb → tokens.npz\n")
    assert "as a CUDA graph" in done.stderr


def test_frames_are_sampled_by_their_rate(bundle, environment, tmp_path):
    """One frame a second of four, which is the model's own rate too."""
    done = run(bundle, environment(), "--fps", 1, "--output", tmp_path / "tokens.npz")
    assert done.returncode == 0, done.stderr
    assert read_file(tmp_path / "tokens.npz")["frame_indices"].tolist() == [0, 4, 8, 12]


def test_a_camera_is_not_made_to_wait(bundle, orin, tmp_path, monkeypatch):
    """What becomes of frames then stands in the tests of the queue."""
    (tmp_path / "frames").write_bytes(FRAMES.tobytes())
    seen = []

    def follow(source, window, sink, plan, tell):
        seen.append((source.waits, plan.queue, plan.every, plan.fps, plan.most_windows))

    monkeypatch.setattr("sttm_export.kit.stream.follow", follow)
    start = ["--frames", str(tmp_path / "frames"), "--size", SIZE, "--rate", "4", "--output", str(tmp_path / "windows")]
    for options in ([], ["--live", "--queue", "3", "--every", "2", "--fps", "2", "--windows", "5"]):
        assert run_main.main([*start, *options], bundle) == 0
    assert seen == [(True, 8, 4, 1.0, None), (False, 3, 2, 2.0, 5)]


def test_thresholds_and_pixel_formats_are_taken(bundle, environment, tmp_path):
    sent = np.concatenate([FRAMES[..., ::-1], FRAMES[..., :1]], axis=-1)
    options = "--pixel-format", "BGRx", "--spatial-threshold", 2, "--output", tmp_path / "tokens.npz"
    done = run(bundle, environment(), *options, sent=sent)
    assert done.returncode == 0, done.stderr
    assert read_file(tmp_path / "tokens.npz")["thresholds_applied"][0] == 2


# Ends.


def test_an_end_in_mid_frame_is_said_and_whole_frames_count(bundle, environment, loader, tmp_path):
    done = run(bundle, environment(), "--output", tmp_path / "windows", sent=FRAMES[:7].tobytes()[:-1])
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"run.sh: The frames end in the middle of one: {WIDTH * HEIGHT * 3 - 1} of {WIDTH * HEIGHT * 3} bytes after 6 "
        f"whole frames, which were used; if nothing was cut off, they are not {SIZE} in rgb24, so see --size and "
        "--pixel-format. 2 windows were written before, each whole.\n"
    )
    assert len(names(tmp_path / "windows")) == 2
    assert read_file(tmp_path / "windows" / "window-000002.npz")["frame_indices"].tolist() == [2, 3, 4, 5]


def test_no_frame_came(bundle, environment, tmp_path):
    done = run(bundle, environment(), "--output", tmp_path / "tokens.npz", sent=b"")
    assert done.returncode == 2
    assert "run.sh: No frame came: the pipe or file is empty" in done.stderr
    assert names(tmp_path) == []


@contextlib.contextmanager
def running(bundle, environment, *options, stdout=subprocess.PIPE):
    """A stream that does not end by itself; give it frames with `feed`."""
    process = subprocess.Popen(
        command(bundle, *options), env=environment, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interruption_leaves_whole_windows(bundle, environment, tmp_path, number):
    folder = tmp_path / "windows"
    with running(bundle, environment(), "--output", folder) as process:
        process.stdin.write(FRAMES[:9].tobytes())
        process.stdin.flush()
        wait_until(lambda: folder.is_dir() and len(names(folder)) >= 2)
        time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(timeout=20) == 130
        errors = process.stderr.read().decode()
    assert re.search(r"run.sh: interrupted; 2 windows, .*; each window that was written is whole\.\n$", errors)
    assert names(folder) == ["window-000001.npz", "window-000002.npz"]
    assert all(len(read_file(folder / name)["frame_indices"]) == 4 for name in names(folder))


def test_nobody_reads_any_more(bundle, environment):
    with running(bundle, environment(), "--every", 1, "--output", "-") as process:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(FRAMES[:4].tobytes())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["window"] == 1
            process.stdout.close()
            process.stdout = None
            for _ in range(50):
                process.stdin.write(FRAMES.tobytes())
                process.stdin.flush()
        assert process.wait(timeout=20) == 141
        assert "Traceback" not in process.stderr.read().decode()


def test_a_full_disk_ends_with_what_fits(bundle, orin, tmp_path, monkeypatch, capsys):
    """In this process: a limit on files would be one for the stand-in's own."""
    calls = []

    def full(file, *arrays, **extra):
        calls.append(write_npz(file, *arrays, **extra))
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sttm_export.streams.records.write_npz", full)
    (tmp_path / "frames").write_bytes(FRAMES.tobytes())
    start = ["--frames", str(tmp_path / "frames"), "--size", SIZE, "--rate", "4", "--fps", "4"]
    assert run_main.main([*start, "--output", str(tmp_path / "windows")], bundle) == 2
    assert "window-000003.npz: No space left on device; choose a directory" in capsys.readouterr().err
    assert names(tmp_path / "windows") == ["window-000001.npz", "window-000002.npz"]
    assert not orin.driver.live()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_the_stream(bundle, environment):
    with Path("/dev/full").open("wb") as full:
        done = run(bundle, environment(), "--output", "-", stdout=full)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "run.sh: Window 1 cannot be written: No space left on device; free some space or choose another --output.\n"
    )


# What is refused before any work.


def test_without_numpy(bundle, environment, tmp_path):
    bare = block_packages(tmp_path, REAL - {"numpy"})
    made = environment()
    made["PYTHONPATH"] = str(bare)
    done = run(bundle, made, "--output", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == (
        "run.sh: NumPy cannot be imported (numpy is not on a device); 1.21 or later is needed: sudo apt install "
        "python3-numpy.\n"
    )


def test_help_is_there_without_numpy(bundle, tmp_path):
    bare = block_packages(tmp_path, REAL - {"numpy"})
    made = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(bare)}
    done = run(bundle, made, "--help", "--output", "-")
    assert done.returncode == 0, done.stderr
    assert b"--still-tolerance" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "70"], "'70' is no size"),
        (["--size", "0x9"], "Frames of 0x9 are not possible"),
        (["--rate", "fast"], "--rate fast is no rate"),
        (["--rate", "1/0"], "--rate 1/0 is no rate"),
        (["--rate", "0"], "--rate 0 is not possible"),
        (["--fps", "nan"], "--fps nan is not possible"),
        (["--pixel-format", "nv12"], "There is no pixel format 'nv12'"),
        (["--window", "5"], "A window of 5 frames is not possible; give 1 to 4."),
        (["--every", "0"], "--every 0 is not possible"),
        (["--every", "3", "--window", "2"], "--every 3 is more than the 2 frames of a window"),
        (["--windows", "0"], "--windows 0 is not possible"),
        (["--queue", "0"], "--queue 0 is not possible"),
        (["--still-tolerance", "-1"], "A still tolerance of -1 is not possible"),
        (["--still-tolerance", "some"], "--still-tolerance some is none"),
        (["--spatial-threshold", "3"], "--spatial-threshold 3 is no cosine"),
        (["--temporal-threshold", "0.5"], "--temporal-threshold does nothing here"),
        (["--target", "jetson-thor"], "The bundle has no engines for 'jetson-thor'"),
        (["--keep", "3", "--output", "-"], "--keep is about windows in a directory"),
        (["--keep", "0"], "--keep 0 is not possible"),
        (["--output", "absent/below"], "--output absent/below is no directory, nor in one"),
        (["--output", "absent/tokens.npz"], "Cannot write absent/tokens.npz"),
        (["--output", "frames"], "--output frames is no directory, nor in one"),
        (["--output", "BUNDLE/windows"], "would lie in the bundle"),
        (["--output", "BUNDLE"], "would lie in the bundle"),
        (["--output", "BUNDLE/tokens.npz"], "would lie in the bundle"),
        (["--frames", "absent"], "Cannot read --frames absent: No such file or directory"),
        (["--frames", "."], "Cannot read --frames .: Is a directory"),
    ],
)
def test_what_is_not_possible(bundle, orin, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").write_bytes(FRAMES.tobytes())
    start = ["--frames", "frames", "--size", SIZE, "--rate", "4", "--output", "windows"]
    given = [option.replace("BUNDLE", str(bundle)) for option in options]
    assert run_main.main([*start, *given], bundle) == 2
    said = capsys.readouterr().err
    assert said.startswith("run.sh: ") and message in said
    assert said.count("\n") == 1
    assert names(tmp_path) == ["frames"]
    assert not orin.driver.live()


def test_a_bundle_without_engines(tiny_bundle, orin, tmp_path, capsys):
    bare = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    shutil.rmtree(bare / "engines", ignore_errors=True)
    start = ["--frames", "-", "--size", SIZE, "--rate", "4", "--output", str(tmp_path / "windows")]
    assert run_main.main(start, bare) == 2
    assert "The bundle has no engines" in capsys.readouterr().err


def test_a_bundle_that_merges_inside_its_language_model(language_bundle, orin, tmp_path, capsys):
    start = ["--frames", "-", "--size", SIZE, "--rate", "4", "--output", str(tmp_path / "windows")]
    assert run_main.main(start, language_bundle) == 2
    assert "merge inside its language model, at the input of layer 2" in capsys.readouterr().err
