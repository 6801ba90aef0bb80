"""Work in processes of its own: nothing foreign gets into them, none outlives its parent or is waited for in vain."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from helpers_children import is_running, plant, wait_until

from sttm_export.engines import children
from sttm_export.engines.api import EngineError, UnavailableError
from sttm_export.engines.children import (
    absolute_paths,
    child_environment,
    ended_when_still,
    python_command,
    run_child,
    session_work,
)
from sttm_export.errors import UserError
from sttm_export.kit.pack import PACKAGE, kit_sources
from sttm_export.machine.modules import ask_module

WORK = """
import os, signal, subprocess, sys, time
from sttm_export.engines.api import EngineError, UnavailableError
from sttm_export.engines.children import serve
from sttm_export.errors import UserError

def work(request, tell):
{body}

serve(work)
"""


def write_work(folder, body):
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (folder / "standin_work.py").write_text(WORK.format(body=lines))


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Run a child with the given body on the request {"n": 20}."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(body, *told):
        write_work(tmp_path, body)
        return run_child("standin_work", {"n": 20}, *told)

    return run


def test_a_child_answers_and_tells_meanwhile(child, capfd):
    told = []
    body = "print('chatter'); os.system('echo more'); tell(half=1); return {'twice': request['n'] * 2}"
    assert child(body, told.append) == {"twice": 40}
    assert told == [{"half": 1}]
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(err.split()) == ["chatter", "more"]


@pytest.mark.parametrize("kind", [UserError, UnavailableError, EngineError])
def test_what_it_raises_is_raised_here(child, kind):
    with pytest.raises(kind, match=r"^There is no cache; make one\.$") as caught:
        child(f"raise {kind.__name__}('There is no cache; make one.')")
    assert type(caught.value) is kind


def test_a_full_disk_is_a_full_disk(child):
    with pytest.raises(OSError, match="No space left") as full:
        child("with open('/dev/full', 'w') as file: file.write('x')")
    assert full.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            r"ended by the system, most likely because memory ran out \(.* were free",
        ),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV, inside TensorRT or the driver"),
        ("sys.exit(3)", "code 3 and no answer"),
        ("return {}['fault of the program']", "code 1 and no answer"),
        ("open('/nowhere/x')", "code 1 and no answer"),
    ],
)
def test_a_death_is_an_answer(child, body, reason):
    with pytest.raises(EngineError, match=reason):
        child(body)


def test_standing_still_is_an_answer(child, monkeypatch):
    monkeypatch.setattr(children, "PATIENCE", 1.0)
    with pytest.raises(EngineError, match=r"stood still and was ended, most likely because memory ran out.*--work"):
        child("time.sleep(600)")


def test_a_child_that_is_asked_nothing_ends_quietly(tmp_path, monkeypatch):
    """Its parent was interrupted before it had sent the request."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_work(tmp_path, "return {}")
    command = python_command("standin_work")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


INTERRUPTED = """
import signal, sys
from sttm_export.engines.children import run_child

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
try:
    run_child("standin_work", {})
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interruption_ends_the_child_and_what_it_started(tmp_path, monkeypatch):
    note = tmp_path / "processes"
    write_work(
        tmp_path,
        f"""child = subprocess.Popen(["sleep", "60"])
open({str(note)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename({str(note)!r}, {str(note)!r} + ".whole")
time.sleep(60)""",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", INTERRUPTED])
    whole = Path(f"{note}.whole")
    wait_until(whole.exists)
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) == 130
    for number in whole.read_text().split():
        wait_until(lambda number=int(number): not is_running(number))


SLEEPER = "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\nos.rename(sys.argv[1], sys.argv[2])\n"


@pytest.mark.parametrize("version", [sys.version_info, (3, 10)])
def test_the_working_directory_is_not_looked_at(tmp_path, monkeypatch, version):
    """Python 3.10 has no option for it."""
    home, trap = tmp_path / "home", tmp_path / "trap"
    home.mkdir()
    trap.mkdir()
    plant(trap, tmp_path / "ran")
    (home / "mine.py").write_text("import sttm_export, sys\nprint(sttm_export.__file__, sys.argv[1:])\n")
    monkeypatch.setenv("PYTHONPATH", f":{home}:")
    monkeypatch.setattr(children, "sys", types.SimpleNamespace(version_info=version, executable=sys.executable))
    command = python_command("mine", "a b")
    done = subprocess.run(command, cwd=trap, env=child_environment(), capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0] == f"{PACKAGE / '__init__.py'} ['a b']", done.stderr
    assert not (tmp_path / "ran").exists()


def test_nothing_but_the_package_is_taken_from_where_it_lies(tmp_path, monkeypatch):
    """A kit with more files in it than it was packed with."""
    for name in kit_sources():
        (tmp_path / "kit" / "sttm_export" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / name, tmp_path / "kit" / "sttm_export" / name)
    plant(tmp_path / "kit", tmp_path / "ran")
    monkeypatch.setattr(children, "_PACKAGE_PARENT", tmp_path / "kit")
    command = python_command("sttm_export.kit.__main__", "--help")
    done = subprocess.run(command, cwd=tmp_path / "kit", capture_output=True, text=True, check=False)
    assert "usage: build.sh" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists()


def test_search_paths_do_not_depend_on_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f":/a::b{os.pathsep}")
    assert absolute_paths("PYTHONPATH") == {"PYTHONPATH": f"/a:{tmp_path}/b"}
    monkeypatch.setenv("LD_LIBRARY_PATH", ":")
    assert absolute_paths("LD_LIBRARY_PATH") == absolute_paths("ABSENT_PATH") == {}
    assert "LD_LIBRARY_PATH" not in child_environment()
    assert child_environment()["PATH"] == os.environ["PATH"]


def test_asking_for_a_module_does_not_look_where_one_stands(tmp_path, monkeypatch):
    """`doctor`, in the directory of a bundle that brings a tensorrt.py along."""
    plant(tmp_path, tmp_path / "ran")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "honest.py").write_text("__version__ = '1.2'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    assert ask_module("honest").version == "1.2"
    ask_module("numpy")
    assert not (tmp_path / "ran").exists()


PARENT = """
import subprocess, sys
from sttm_export.engines.children import python_command
subprocess.run(python_command("sleeper", *sys.argv[1:]))
"""


def test_a_child_ends_with_its_parent(tmp_path, monkeypatch):
    """Killed, the parent can end nobody: the system does it."""
    (tmp_path / "sleeper.py").write_text(f"{SLEEPER}time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    note, whole = tmp_path / "note", tmp_path / "whole"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(note), str(whole)])
    wait_until(whole.exists)
    child = int(whole.read_text())
    assert is_running(child)
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_running(child))


def test_a_child_whose_parent_is_gone_does_not_begin(tmp_path):
    (tmp_path / "mine.py").write_text("print('began')")
    command = python_command("mine")
    command[command.index(str(os.getpid()))] = "1"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def sleeper():
    return subprocess.Popen(["sleep", "600"], text=True, start_new_session=True)


def test_a_process_that_stands_still_is_ended():
    process = sleeper()
    with ended_when_still(process, 0.5) as still:
        assert process.wait(60) == -signal.SIGKILL
    assert still.is_set()


def test_one_that_works_is_not(monkeypatch):
    """However little it does, it is more than before."""
    seen = []
    monkeypatch.setattr(children, "session_work", lambda leader: seen.append(leader) or len(seen) // 15)
    process = sleeper()
    try:
        with ended_when_still(process, 0.2) as still:
            wait_until(lambda: len(seen) > 100)
            assert process.poll() is None
            assert not still.is_set()
    finally:
        process.kill()
        process.wait()


def test_where_no_thread_can_be_started_it_is_waited_for(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    process = subprocess.Popen(["true"], text=True, start_new_session=True)
    with ended_when_still(process, 0.1) as still:
        assert process.wait() == 0
    assert not still.is_set()


def test_work_is_seen():
    before = session_work(os.getsid(0))
    wait_until(lambda: sum(range(10_000)) and session_work(os.getsid(0)) > before)
    process = sleeper()
    process.kill()
    process.wait()
    assert session_work(process.pid) is None
