"""Work in processes of its own: answers, sentences, deaths, and that an interruption takes everything along."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sttm_export.engines import children
from sttm_export.errors import UserError
from sttm_export.kit.jobs import JobError, run_job
from sttm_export.kit.watch import MemoryWatch

JOB = """
import os, signal, subprocess, sys, time
from sttm_export.kit.jobs import serve_job
from sttm_export.engines.faults import EngineError
from sttm_export.errors import UserError

def work(request):
{body}

serve_job(work)
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Run a job with the given body on the request {"n": 20}."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(body):
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        (tmp_path / "standin_job.py").write_text(JOB.format(body=lines))
        try:
            return run_job("standin_job", {"n": 20}, tmp_path / "answer.json")
        finally:
            assert not (tmp_path / "answer.json").exists()

    return run


def test_an_answer_comes_with_what_the_machine_had_left(job):
    found = job("return {'twice': request['n'] * 2}")
    assert found["twice"] == 40
    memory = found["memory"]
    assert memory["least_free"] <= memory["free_before"] and memory["taken"] >= 0


def test_the_least_free_memory_is_seen_from_outside():
    """What is on a Jetson's GPU is in no process; only the machine's own figure shows it."""
    values = iter([900, 700, 200, 650])
    seen = threading.Event()

    def read():
        value = next(values, None)
        if value is None:
            seen.set()
        return value

    with MemoryWatch(read, 0.001) as watch:
        assert seen.wait(10)
    assert watch.facts() == {"free_before": 900, "least_free": 200, "taken": 700}
    with MemoryWatch(lambda: None, 0.001) as watch:
        pass
    assert set(watch.facts().values()) == {None}


def test_what_a_user_can_mend_is_said_as_such(job):
    with pytest.raises(UserError, match="no cache"):
        job("raise UserError('There is no cache; make one.')")


def test_what_tensorrt_refuses_is_for_the_report(job):
    with pytest.raises(JobError, match="node 'x'"):
        job("raise EngineError(\"The parser refuses node 'x'.\")")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"memory ran out \(the least that was free: "),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV, inside TensorRT or the driver"),
        ("sys.exit(3)", "code 3"),
        ("return {}['fault of the program']", "code 1"),
    ],
)
def test_a_death_is_an_answer(job, body, reason):
    with pytest.raises(JobError, match=reason):
        job(body)


def test_standing_still_is_an_answer(job, monkeypatch):
    monkeypatch.setattr(children, "PATIENCE", 1.0)
    with pytest.raises(JobError, match="stood still and was ended, most likely because memory ran out"):
        job("time.sleep(600)")


INTERRUPTED = """
import signal, sys
from pathlib import Path
from sttm_export.kit.jobs import run_job

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
try:
    run_job("standin_job", {}, Path(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interruption_ends_the_job_and_what_it_started(tmp_path, monkeypatch):
    note = tmp_path / "processes"
    body = f"""
child = subprocess.Popen(["sleep", "60"])
open({str(note)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename({str(note)!r}, {str(note)!r} + ".whole")
time.sleep(60)"""
    (tmp_path / "standin_job.py").write_text(JOB.format(body=body.replace("\n", "\n    ")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path / "answer.json")])
    whole = Path(f"{note}.whole")
    wait_until(whole.exists)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) == 130
    for number in whole.read_text().split():
        wait_until(lambda number=int(number): not is_running(number))


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_running(number):
    """Zombies do not run."""
    try:
        os.kill(number, 0)
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
