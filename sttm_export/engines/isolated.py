"""A build in a process of its own: what TensorRT took goes back to the system, and whatever happens is an answer.

A process that the system ends for want of memory is one, and so is one that stands still; Ctrl-C ends a build at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from sttm_export.engines.api import Message, load_api
from sttm_export.engines.children import child_environment, ended_when_still, python_command
from sttm_export.engines.faults import EngineError
from sttm_export.engines.logs import exhausted
from sttm_export.engines.meminfo import free_memory
from sttm_export.engines.options import BuildOptions
from sttm_export.engines.progress import PhaseTree
from sttm_export.engines.serialize import Job, Serialized, serialize_engine


def serialize_isolated(job: Job, file: BinaryIO, messages: list[Message], tree: PhaseTree) -> Serialized:
    """Do what `serialize_engine` does, in a process of its own; without a timing cache.

    Raises:
        EngineError: TensorRT refused the graph or could not build it, or the process died or stood still.
        OSError: the file could not be written.
    """
    request = {
        "flavour": job.api.flavour,
        "graph": job.onnx_path.name,
        "compute_capability": job.compute_capability,
        "here": job.here,
        "options": dataclasses.asdict(job.options),
    }
    free, answer = free_memory(), None
    tree.tell("starting TensorRT", 0.0)
    with _start(job.onnx_path.parent, file) as process, ended_when_still(process) as still:
        try:
            _send(process, request)
            for line in process.stdout or ():
                answer = _receive(json.loads(line), messages, tree) or answer
        except BaseException:
            process.kill()
            raise
    if answer is None:
        raise EngineError(
            f"{job.api.flavour} {job.api.version} could not build {job.onnx_path.name}: {_death(process, free, still)}"
        )
    return _judge(answer)


def _start(folder: Path, file: BinaryIO) -> subprocess.Popen[str]:
    # A session of its own: the keyboard's interrupt comes to the parent alone.
    return subprocess.Popen(
        python_command("sttm_export.engines.isolated", str(file.fileno())),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=child_environment(),
        pass_fds=[file.fileno()],
        start_new_session=True,
    )


def _send(process: subprocess.Popen[str], request: dict[str, Any]) -> None:
    if process.stdin is not None:
        with process.stdin as stdin:
            stdin.write(json.dumps(request))


def _receive(row: dict[str, Any], messages: list[Message], tree: PhaseTree) -> dict[str, Any] | None:
    """Take in one line of the child; return it if it is the last."""
    if "phase" in row:
        tree.tell(row["phase"], row["fraction"])
        if tree.error is not None:
            raise tree.error
        return None
    messages += [Message(*pair) for pair in row["messages"]]
    return row


def _judge(answer: dict[str, Any]) -> Serialized:
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]))
    if "error" in answer:
        raise EngineError(answer["error"])
    return Serialized(answer["options"])


def _death(process: subprocess.Popen[str], free: int | None, still: threading.Event) -> str:
    if still.is_set():
        return f"its process stood still and was ended; {exhausted(0, free)}."
    if process.returncode == -9:
        return f"the system ended its process; {exhausted(0, free)}."
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return f"its process died of {name}, inside TensorRT; if memory was short, that is the likely reason."
    return f"its process ended with code {process.returncode} and no answer; what it printed says why."


def _serve(descriptor: int) -> None:
    """Be the child: one request on standard input, lines of JSON on what was standard output."""
    # What TensorRT prints itself must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    messages: list[Message] = []

    def tell(**row: Any) -> None:
        answers.write(json.dumps(row) + "\n")

    text = sys.stdin.read()
    if not text:
        # Who wanted the engine was interrupted before it could say which.
        return
    request = json.loads(text)
    options = BuildOptions(**request["options"])
    job = Job(
        load_api(request["flavour"]), Path(request["graph"]), request["compute_capability"], request["here"], options
    )
    tree = PhaseTree(lambda phase, fraction: tell(phase=phase, fraction=fraction))
    outcome: dict[str, Any]
    try:
        with os.fdopen(descriptor, "wb") as file:
            outcome = {"options": serialize_engine(job, file, messages, tree).options}
    except OSError as error:
        outcome = {"errno": error.errno}
    except EngineError as error:
        outcome = {"error": str(error)}
    tell(**outcome, messages=[dataclasses.astuple(message) for message in messages])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
