"""Work in a process of its own, one after the other: its memory goes back to the machine, and its death is an answer.

An 8 GB Jetson has room for one graph at a time, and TensorRT keeps what it has once taken. And where the kernel ends a
process for want of memory, the kit must live to say so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sttm_export.engines.children import child_environment, ended_when_still, python_command
from sttm_export.engines.faults import EngineError
from sttm_export.errors import UserError
from sttm_export.kit.watch import MemoryWatch
from sttm_export.machine.facts import size_text


class JobError(Exception):
    """A job could not do its work on this machine; the message is for the report."""


def run_job(module: str, request: Mapping[str, Any], answer: Path) -> dict[str, Any]:
    """Run a module as a program with a request; return its answer, and as `memory` what the machine had left meanwhile.

    What the job prints goes where this process prints.

    Args:
        module: calls `serve_job` when it is run.
        request: plain values.
        answer: file that the job writes; removed here.

    Raises:
        UserError: something that the user can mend, as the job says.
        JobError: TensorRT refused, or the process ended without an answer or stood still.
    """
    command = python_command(module, str(answer.resolve()))
    # A session of its own: the keyboard's interrupt comes here alone, and what the job starts is ended with it.
    watch = MemoryWatch()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, text=True, cwd=answer.parent, env=child_environment(), start_new_session=True
    )
    try:
        with watch, ended_when_still(process) as still:
            process.communicate(json.dumps(request))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not answer.is_file():
        raise JobError(_death(process.returncode, still, watch.least))
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    answer.unlink()
    if "user_error" in found:
        raise UserError(found["user_error"])
    if "engine_error" in found:
        raise JobError(found["engine_error"])
    return {**found, "memory": watch.facts()}


def serve_job(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Be a job: read the request, work, write the answer."""
    try:
        answer = work(json.loads(sys.stdin.read()))
    except UserError as error:
        answer = {"user_error": str(error)}
    except EngineError as error:
        answer = {"engine_error": str(error)}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")


def _death(code: int, still: threading.Event, least: int | None) -> str:
    seen = "" if least is None else f" (the least that was free: {size_text(least)})"
    if still.is_set():
        return f"its process stood still and was ended, most likely because memory ran out{seen}; see what it printed"
    if code == -signal.SIGKILL:
        return (
            f"its process was killed, most likely because memory ran out{seen}; close other programs, stop the desktop"
            ", add swap, or give the builder less scratch memory with --workspace 1024, and run again"
        )
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}, inside TensorRT or the driver; see what it printed"
    return f"its process ended with code {code}; what it printed says why"
