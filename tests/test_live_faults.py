"""`live` in a process of its own, and what may go wrong with it: every window that is there is whole, and it ends as it
says."""

import errno
import io
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_serving import RtspServer, access_units, lossless, moving
from helpers_streams import wait_for

from sttm_export.errors import UserError
from sttm_export.streams.records import read_windows

ROOT = Path(__file__).resolve().parent.parent
UNITS = access_units(moving(40))
# A camera that gives 25 pictures a second for ten seconds, and then nothing.
CAMERA = [item for unit in (UNITS * 7)[:250] for item in (unit, 0.04)] + ["hold"]


def start(bundle, source, output, *options, limit=None, **popen):
    """Start it in a process of its own; `limit` is the size in bytes that no file of it may exceed."""
    command = [sys.executable, "-m", "sttm_export", "live", bundle, "--source", source, "--output", output]
    command += ["--fps", "25", "--every", "2", *options]
    lower = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # Nothing is buffered here that `communicate` would not see.
    popen |= {"env": environment, "bufsize": 0}
    return subprocess.Popen([str(word) for word in command], preexec_fn=lower, **popen)  # noqa: PLW1509


def ended(process, seconds=30):
    """Exit code, standard output and error."""
    out, err = process.communicate(timeout=seconds)
    assert b"Traceback" not in err, err.decode()
    return process.returncode, out, err.decode()


def whole_windows(folder):
    """Every file of a folder, each of which must be a window that is whole; their newest frames."""
    newest = []
    for path in sorted(folder.iterdir()):
        with np.load(path) as window:
            arrays = {name: window[name] for name in window.files}
        assert arrays["assignment"].max() == len(arrays["tokens"]) - 1
        newest.append(int(arrays["frame_indices"][-1]))
    return newest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_cleanly(tiny_bundle, tmp_path, number):
    folder = tmp_path / "w"
    with RtspServer(CAMERA, rate=25) as server:
        process = start(tiny_bundle, server.url(), folder)
        wait_for((folder / "window-000003.npz").exists, 60)
        process.send_signal(number)
        begun = time.monotonic()
        code, _, err = ended(process)
    assert time.monotonic() - begun < 3
    assert code == 130
    # A signal may come behind the end of a window and before it is counted.
    count = int(re.search(r"interrupted; (\d+) windows, ", err)[1])
    assert count <= len(whole_windows(folder)) <= count + 1
    assert "each window that was written is whole." in err


def test_a_signal_while_nothing_comes(tiny_bundle, tmp_path):
    """The peer is silent: the program ends when its patience does, which is a second here."""
    folder = tmp_path / "w"
    with RtspServer([*UNITS[:9], "hold"], rate=25) as server:
        process = start(tiny_bundle, server.url(), folder, "--timeout", 4)
        wait_for((folder / "window-000003.npz").exists, 60)
        begun = time.monotonic()
        process.terminate()
        code, _, _ = ended(process)
    assert code == 130
    assert time.monotonic() - begun < 6


def test_a_signal_in_the_pause_before_the_next_try(tiny_bundle, tmp_path):
    with RtspServer(UNITS[:9], None, rate=25) as server:
        process = start(tiny_bundle, server.url(), tmp_path / "w", "--timeout", 1)
        wait_for(lambda: server.served >= 4, 60)  # the pauses are 1, 2 and then 4 seconds
        process.terminate()
        begun = time.monotonic()
        code, _, err = ended(process)
    assert time.monotonic() - begun < 1.5
    assert code == 130
    assert err.count("to open it again") >= 3


def test_a_process_that_is_killed_leaves_whole_windows(tiny_bundle, tmp_path):
    """Nothing can be said any more; a file that was being written has another name, and the next run takes it away."""
    folder = tmp_path / "w"
    with RtspServer(CAMERA, rate=25) as server:
        process = start(tiny_bundle, server.url(), folder)
        wait_for((folder / "window-000004.npz").exists, 60)
        process.kill()
        process.communicate()
    for path in folder.glob("window-*.npz"):
        with np.load(path) as window:
            assert all(window[name] is not None for name in window.files)


def test_a_source_that_dies_for_good(tiny_bundle, tmp_path):
    """What came before is written, the last window included; then the end is an error."""
    folder = tmp_path / "w"
    with RtspServer(UNITS[:8], None, rate=25) as server:
        code, _, err = ended(start(tiny_bundle, server.url("me:secret@"), folder, "--retries", 1, "--timeout", 1))
    assert code == 2
    assert whole_windows(folder) == [2, 4, 6, 7]
    assert "and did not come back in 1 tries; check the source" in err
    assert "4 windows were written before, each whole." in err
    assert "secret" not in err


def test_a_slow_reader_loses_frames_whole_and_counted(tiny_bundle, tmp_path):
    """Nobody reads the pipe for a while: frames are dropped, and numbers of frames tell which."""
    source = lossless(tmp_path / "a.mkv", moving(75), rate=25)
    options = ("--pace", "--queue", 2, "--every", 1, "--window", 1)
    process = start(tiny_bundle, source, "-", *options)
    head = process.stdout.read(1)
    time.sleep(2.0)  # 64 KiB wait in the pipe, a window has 3: then the program waits, and the camera goes on
    code, rest, err = ended(process)
    assert code == 0, err
    records = list(read_windows(io.BytesIO(head + rest)))
    numbers = [number for record in records for number in record.facts["frames"]]
    assert numbers == sorted(set(numbers))
    dropped = [record.facts["stream"]["dropped"] for record in records]
    assert dropped == sorted(dropped)
    assert dropped[-1] > 0
    # Frame k is the k-th that came: behind it stand the windows before it and all that were dropped until then.
    assert all(number - place <= count for place, (number, count) in enumerate(zip(numbers, dropped, strict=True)))
    assert len(records) + dropped[-1] == 75
    assert f"{dropped[-1]} dropped" in err


def test_a_full_disk_in_a_folder(tiny_bundle, tmp_path):
    """The first windows are smaller than the later ones, and files may not be larger than that."""
    source, folder = lossless(tmp_path / "a.mkv", moving(40)), tmp_path / "w"
    code, _, err = ended(start(tiny_bundle, source, folder, limit=5800))
    assert code == 2
    assert len(whole_windows(folder)) == 1
    assert "Cannot write" in err and os.strerror(errno.EFBIG) in err
    assert "1 window was written before, each whole." in err


def test_a_full_disk_under_a_stream(tiny_bundle, tmp_path):
    """What was written of the last window is taken back."""
    source, output = lossless(tmp_path / "a.mkv", moving(40)), tmp_path / "w.stream"
    with output.open("wb") as file:
        code, _, err = ended(start(tiny_bundle, source, "-", limit=20_000, stdout=file))
    assert code == 2
    with output.open("rb") as file:
        count = len(list(read_windows(file)))
    assert count >= 2
    assert f"Window {count + 1} cannot be written: {os.strerror(errno.EFBIG)}" in err
    assert f"{count} windows were written before, each whole." in err


def test_a_full_disk_at_once(tiny_bundle, tmp_path):
    source = lossless(tmp_path / "a.mkv", moving(4))
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        code, _, err = ended(start(tiny_bundle, source, "-", stdout=full))
    assert code == 2
    assert f"Window 1 cannot be written: {os.strerror(errno.ENOSPC)}; free some space" in err


def test_a_reader_that_is_gone(tiny_bundle, tmp_path):
    source = lossless(tmp_path / "a.mkv", moving(75), rate=25)
    process = start(tiny_bundle, source, "-", "--pace")
    process.stdout.read(10)
    process.stdout.close()
    process.stdout = None
    code, _, err = ended(process)
    assert code == 141
    assert "cannot be written" not in err


def test_a_signal_while_nobody_reads_the_pipe(tiny_bundle, tmp_path):
    """The program waits for its reader with half a window written; that does not keep it."""
    process = start(tiny_bundle, lossless(tmp_path / "a.mkv", moving(40), rate=25), "-", "--every", 1)
    assert process.stdout.read(1) == b"{"
    time.sleep(1.0)  # 64 KiB fit into the pipe, and there are three times as many
    begun = time.monotonic()
    process.terminate()
    assert process.wait(10) == 130
    assert time.monotonic() - begun < 3
    _, rest, err = ended(process)
    assert "each window that was written is whole" in err
    with pytest.raises(UserError, match="The stream ends in the middle of window"):
        list(read_windows(io.BytesIO(b"{" + rest)))
