"""Windows on a pipe and in files: what is read is what was written, and what is there is whole."""

import errno
import io
import json
import os
import resource
import signal
import threading

import numpy as np
import pytest

from sttm_export.errors import UserError
from sttm_export.runtime.merged import MergedTokens
from sttm_export.streams.records import FileSink, FolderSink, StreamSink, read_windows, window_arrays
from sttm_export.streams.window import Counts, Emitted

FACTS = {"received": 9, "sampled": 6, "dropped": 1, "latency": 0.25, "reopened": 2}


def emitted(seed=0, frames=3, tokens=5):
    """A window of random numbers."""
    rng = np.random.default_rng(seed)
    merged = MergedTokens(
        tokens=rng.standard_normal((tokens, 4)).astype(np.float16),
        token_box=rng.integers(0, 9, (tokens, 5), dtype=np.int32),
        token_patches=rng.integers(1, 9, tokens, dtype=np.int32),
        assignment=rng.integers(0, tokens, (frames, 6), dtype=np.int32) if tokens else np.zeros((frames, 6), np.int32),
        thresholds=np.array([0.9, 0.8], np.float32),
        converged=True,
        margins=np.array([0.1, 0.2], np.float32),
        max_tokens=18,
    )
    numbers = np.arange(seed, seed + frames)
    return Emitted(merged, numbers, numbers / 30, Counts(frames + seed, frames, seed))


def assert_equal(arrays, window):
    expected = window_arrays(window)
    assert set(expected) <= set(arrays)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype and arrays[name].shape == array.shape, name
        np.testing.assert_array_equal(arrays[name], array)


# On a pipe.


def test_what_is_read_is_what_was_written():
    file = io.BytesIO()
    sink, windows = StreamSink(file), [emitted(0), emitted(1, frames=1, tokens=0), emitted(2, frames=8, tokens=40)]
    for window in windows:
        sink.write(window, FACTS)
    file.seek(0)
    found = list(read_windows(file))
    assert len(found) == 3
    for number, (one, window) in enumerate(zip(found, windows, strict=True), 1):
        assert_equal(one.arrays, window)
        assert one.facts["window"] == number
        assert one.facts["frames"] == window.numbers.tolist()
        assert one.facts["times"] == window.timestamps.tolist()
        assert one.facts["tokens"] == window.merged.num_tokens
        assert one.facts["counts"] == {
            "frames": window.counts.frames,
            "encoded": window.counts.encoded,
            "reused": number - 1,
        }
        assert one.facts["stream"] == FACTS


def test_through_a_pipe_that_takes_little_at_a_time():
    """Neither end can seek, and each window is far larger than what a pipe holds."""
    reading, writing = os.pipe()
    windows = [emitted(seed, frames=40, tokens=50_000) for seed in range(2)]

    def write():
        with os.fdopen(writing, "wb", buffering=0) as file:
            sink = StreamSink(file)
            for window in windows:
                sink.write(window, {})

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as file:
        for one, window in zip(read_windows(file), windows, strict=True):
            assert_equal(one.arrays, window)
    thread.join()


def stream(*windows):
    file = io.BytesIO()
    sink = StreamSink(file)
    for window in windows:
        sink.write(window, FACTS)
    return file.getvalue()


def test_an_end_in_the_middle_is_said_and_windows_before_it_are_read():
    whole, cut = stream(emitted(0)), stream(emitted(0), emitted(1))
    for end in {len(whole) + 1, len(whole) + 100, len(cut) - 1, (len(whole) + len(cut)) // 2}:
        read = read_windows(io.BytesIO(cut[:end]))
        assert_equal(next(read).arrays, emitted(0))
        with pytest.raises(UserError, match="ends in the middle of window 2"):
            next(read)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello\n", "no line of JSON"),
        (b"[1]\n", "no line of JSON"),
        (b'{"format": 1, "arrays": 3}\n', "no line of JSON"),
        (b'{"format": 2, "arrays": {}}\n', "format 2, this program reads 1"),
        (b'{"format": 1, "arrays": {"x": -1}}\n', "format 1"),
        (b'{"format": 1, "arrays": {"x": 8}}\nAAAAAAAA', "'x' of window 1 is no .npy"),
        (b"\xff\xfe\n", "no line of JSON"),
    ],
)
def test_something_else_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        list(read_windows(io.BytesIO(data)))


def test_no_pickle_is_read():
    body = io.BytesIO()
    np.save(body, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    line = json.dumps({"format": 1, "arrays": {"x": len(body.getvalue())}}).encode() + b"\n"
    with pytest.raises(UserError, match=r"is no \.npy"):
        list(read_windows(io.BytesIO(line + body.getvalue())))


@pytest.fixture
def small_disk():
    """Files end at 20 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_a_file_that_is_full_ends_with_a_whole_window(tmp_path, small_disk, mode):
    """Also one that is appended to: what was there before stays."""
    path = tmp_path / "windows"
    path.write_bytes(stream(emitted(7)))
    small, large = emitted(0), emitted(1, tokens=5000)
    with path.open(mode, buffering=0) as file:
        sink = StreamSink(file)
        sink.write(small, FACTS)
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            sink.write(large, FACTS)
    expected = [emitted(7), small] if mode == "ab" else [small]
    with path.open("rb") as file:
        found = list(read_windows(file))
    assert len(found) == len(expected)
    for one, window in zip(found, expected, strict=True):
        assert_equal(one.arrays, window)


def test_nobody_reads_any_more():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as file, pytest.raises(BrokenPipeError):
        StreamSink(file).write(emitted(), FACTS)


# In files.


def read_file(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_a_window(tmp_path):
    folder = tmp_path / "windows"
    sink = FolderSink(folder)
    for seed in range(3):
        sink.write(emitted(seed), FACTS)
    assert names(folder) == [f"window-00000{number}.npz" for number in (1, 2, 3)]
    for seed in range(3):
        arrays = read_file(folder / f"window-00000{seed + 1}.npz")
        assert_equal(arrays, emitted(seed))
        record = json.loads(str(arrays["record"]))
        assert (record["window"], record["stream"]) == (seed + 1, FACTS)


def test_the_newest_are_kept(tmp_path):
    sink = FolderSink(tmp_path, keep=2)
    (tmp_path / "window-1.npz").touch()
    (tmp_path / "mine.txt").touch()
    for seed in range(5):
        sink.write(emitted(seed), FACTS)
        assert len(list(tmp_path.glob("window-0*.npz"))) <= 2
    assert names(tmp_path) == ["mine.txt", "window-000004.npz", "window-000005.npz", "window-1.npz"]


def test_numbers_go_on_after_an_earlier_run(tmp_path):
    for seed in range(3):
        FolderSink(tmp_path).write(emitted(seed), FACTS)
    assert names(tmp_path) == [f"window-00000{number}.npz" for number in (1, 2, 3)]
    FolderSink(tmp_path, keep=2).write(emitted(3), FACTS)
    assert names(tmp_path) == ["window-000003.npz", "window-000004.npz"]
    assert_equal(read_file(tmp_path / "window-000004.npz"), emitted(3))


def test_numbers_go_beyond_six_digits(tmp_path):
    (tmp_path / "window-999999.npz").touch()
    sink = FolderSink(tmp_path, keep=1)
    for seed in range(2):
        sink.write(emitted(seed), FACTS)
    assert names(tmp_path) == ["window-1000001.npz"]


@pytest.mark.parametrize("make", [FolderSink, lambda path: FileSink(path / "tokens.npz")])
def test_a_full_disk_leaves_whole_windows_only(tmp_path, small_disk, make):
    sink = make(tmp_path)
    sink.write(emitted(0), FACTS)
    before = names(tmp_path)
    with pytest.raises(UserError, match="Cannot write"):
        sink.write(emitted(1, tokens=5000), FACTS)
    assert names(tmp_path) == before
    assert_equal(read_file(tmp_path / before[0]), emitted(0))
    sink.write(emitted(2), FACTS)


def test_one_file_holds_the_last_window(tmp_path):
    sink = FileSink(tmp_path / "tokens.npz")
    for seed in range(3):
        sink.write(emitted(seed), FACTS)
        assert_equal(read_file(tmp_path / "tokens.npz"), emitted(seed))
    assert names(tmp_path) == ["tokens.npz"]
    assert json.loads(str(read_file(tmp_path / "tokens.npz")["record"]))["window"] == 3


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "absent" / "below"):
        with pytest.raises(UserError, match="Cannot write to the directory"):
            FolderSink(path)
    with pytest.raises(UserError, match="Cannot keep 0 windows"):
        FolderSink(tmp_path, keep=0)
