"""Work in a process of its own: its memory goes back to the system, and whatever happens to it is an answer.

TensorRT keeps what it has once taken, and an 8 GB Jetson has room for one graph at a time. A child gets one request and
answers with lines of JSON. Nothing of a working directory gets into it, it does not outlive its parent, and one that
stands still is ended: where memory runs out in one of TensorRT's threads, others may wait for it for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sttm_export.engines.api import EngineError, UnavailableError
from sttm_export.engines.memory import MORE_MEMORY
from sttm_export.errors import UserError
from sttm_export.system import free_memory, size_text

Tell = Callable[..., None]
Row = dict[str, Any]
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
# What a child may raise and its parent raises again, by name; a kind before what it is a kind of.
_RAISED: Mapping[str, type[Exception]] = {kind.__name__: kind for kind in (UnavailableError, UserError, EngineError)}


def run_child(module: str, request: Row, on_row: Callable[[Row], None] = lambda row: None) -> Row:
    """Run a module that calls `serve`, and return its answer.

    Args:
        module: of this package, or on PYTHONPATH.
        request: plain values, paths absolute.
        on_row: called with what the child tells meanwhile; what it raises ends the child, and so does Ctrl-C.

    Raises:
        UserError, UnavailableError, EngineError: what the child raised; an `EngineError` also where it died or stood
            still, and an OSError where the disk was full.
    """
    free, answer = free_memory(), None
    # A session of its own: the keyboard's interrupt comes to this process alone.
    process = subprocess.Popen(
        python_command(module),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=child_environment(),
        start_new_session=True,
    )
    with process, ended_when_still(process) as still:
        try:
            _send(process, request)
            for line in process.stdout or ():
                row = json.loads(line)
                if "answer" in row or "raised" in row or "errno" in row:
                    answer = row
                else:
                    on_row(row)
        except BaseException:
            _end(process)
            raise
    if answer is None:
        raise EngineError(_death(process.returncode, still, free))
    return _taken(answer)


def serve(work: Callable[[Row, Tell], Row]) -> None:
    """Be the child: read the request, work, and answer; `work` may tell rows meanwhile."""
    # What TensorRT prints itself must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    text = sys.stdin.read()
    if not text:
        # Who wanted the work was interrupted before it could say which.
        return

    def tell(**row: Any) -> None:
        answers.write(json.dumps(row) + "\n")

    try:
        tell(answer=work(json.loads(text), tell))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        tell(errno=error.errno)
    except (UserError, EngineError) as error:
        kind = next(name for name, known in _RAISED.items() if isinstance(error, known))
        tell(raised=kind, text=str(error))


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


def child_environment() -> dict[str, str]:
    """Return this process's environment with search paths that do not depend on a working directory."""
    paths = ("PYTHONPATH", "LD_LIBRARY_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in paths}
    return kept | absolute_paths(paths[0]) | absolute_paths(paths[1])


def absolute_paths(name: str) -> dict[str, str]:
    """Return {name: value} of a search path for a child with another working directory; empty where nothing is left."""
    # An empty entry means the working directory, to Python and to the loader of libraries.
    entries = [str(Path(entry).absolute()) for entry in os.environ.get(name, "").split(os.pathsep) if entry]
    return {name: os.pathsep.join(entries)} if entries else {}


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


def _interpreter() -> list[str]:
    return [sys.executable, *(["-P"] if sys.version_info >= (3, 11) else []), "-c"]


def _send(process: subprocess.Popen[str], request: Row) -> None:
    # A child that died before it had read is found out by its answer.
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(json.dumps(request))


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _taken(row: Row) -> Row:
    if "errno" in row:
        raise OSError(row["errno"], os.strerror(row["errno"]))
    if "raised" in row:
        raise _RAISED[row["raised"]](row["text"])
    answer: Row = row["answer"]
    return answer


def _death(code: int, still: threading.Event, free: int | None) -> str:
    if still.is_set() or code == -signal.SIGKILL:
        end = "stood still and was ended" if still.is_set() else "was ended by the system"
        had = "" if free is None else f" ({size_text(free)} were free when it began)"
        return f"its process {end}, most likely because memory ran out{had}; {MORE_MEMORY}"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}, inside TensorRT or the driver; see what it printed"
    return f"its process ended with code {code} and no answer; what it printed says why"
