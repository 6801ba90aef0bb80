"""Processes that this package starts: nothing of their working directory gets into them, and none outlives its parent.

One that stands still is ended: where memory runs out in one of TensorRT's threads, others may wait for it for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
# A build computes, reads or waits for a kernel of milliseconds; one that does none of it for so long waits for ever.
PATIENCE = 180.0
# With `-c`, and before any import, the working directory is still on the path of Python 3.10 (from 3.11 on, -P keeps it
# off). The package is found where the parent's lies, and nothing else is looked for there.
_CLEAN = "import sys; sys.path[:] = [entry for entry in sys.path if entry]\n"
_BOOT = (
    f"{_CLEAN}sys.path.insert(0, sys.argv[1]); import sttm_export; del sys.path[0]; "
    "import sttm_export.engines.children as children; children.begin()"
)


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this package, or one on PYTHONPATH, as a program.

    It runs with this very package, whatever lies in its working directory, and ends when this process does.
    """
    return [*_interpreter(), _BOOT, str(_PACKAGE_PARENT), module, str(os.getpid()), *arguments]


def code_command(code: str) -> list[str]:
    """Return the command line that runs some lines of Python, which import nothing from the working directory."""
    return [*_interpreter(), _CLEAN + code]


def begin() -> None:
    """Be the child that `python_command` starts."""
    _, _, module, parent, *arguments = sys.argv
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        # It ended before it could be said that this process is to end with it.
        os._exit(1)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _interpreter() -> list[str]:
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-c"]


def absolute_paths(name: str) -> dict[str, str]:
    """Return a search path of this process's environment for a child with another working directory.

    An empty entry means the working directory, to Python and to the loader of libraries; it is left out.

    Returns:
        {name: value}; empty where nothing is left.
    """
    entries = [str(Path(entry).absolute()) for entry in os.environ.get(name, "").split(os.pathsep) if entry]
    return {name: os.pathsep.join(entries)} if entries else {}


def child_environment() -> dict[str, str]:
    """Return this process's environment with search paths that do not depend on a working directory."""
    paths = ("PYTHONPATH", "LD_LIBRARY_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in paths}
    return kept | absolute_paths(paths[0]) | absolute_paths(paths[1])


@contextlib.contextmanager
def ended_when_still(process: subprocess.Popen[str], patience: float | None = None) -> Iterator[threading.Event]:
    """End a process that leads a session, with all of the session, if for `patience` seconds none of them does a thing.

    Yields:
        An event that is set if it was ended.
    """
    still, over = threading.Event(), threading.Event()
    seconds = PATIENCE if patience is None else patience

    def watch() -> None:
        before, waited = session_work(process.pid), 0.0
        while not over.wait(seconds / 20):
            now = session_work(process.pid)
            waited = waited + seconds / 20 if now == before else 0.0
            before = now
            if waited >= seconds and now is not None and process.poll() is None:
                still.set()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return

    thread = threading.Thread(target=watch, daemon=True)
    # Where there is no memory for a thread, the process is waited for unwatched.
    with contextlib.suppress(RuntimeError):
        thread.start()
    try:
        yield still
    finally:
        over.set()
        if thread.ident is not None:
            thread.join()


def session_work(leader: int) -> int | None:
    """Return a number that grows with whatever the processes of a session do: clock ticks of CPU time and page faults.

    None where the system does not tell.
    """
    total, found = 0, False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader:
            found = True
            # Page faults and CPU time, its own and those of children that have ended: fields 10 to 17 of proc(5).
            total += sum(map(int, fields[7:15]))
    return total if found else None
