"""What is to be measured and where results go, checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sttm_export.errors import UserError
from sttm_export.files.whole import check_suffix
from sttm_export.workflows.viewing import Viewing, check_outputs, check_viewing

MOST_RUNS, MOST_SECONDS, MOST_THREADS = 10_000, 86_400.0, 1024


@dataclass(frozen=True, kw_only=True)
class Request(Viewing):
    """What to measure."""

    output: Path  # the result as JSON
    plot: Path  # a picture of it
    video: Path | None = None  # whose frames are used; None for the bundle's fixtures
    runs: int = 20  # rounds of a group of candidates at most
    seconds: float = 30.0  # that the rounds of a group may take
    threads: int = 0  # of ONNX Runtime, within an operator; 0 for its own choice


def check_request(request: Request) -> None:
    """Refuse values that are not possible, and outputs that cannot be written.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    check_viewing(request)
    if not 1 <= request.runs <= MOST_RUNS:
        raise UserError(f"--runs {request.runs} is not possible; give a number from 1 to {MOST_RUNS}.")
    if not 0 < request.seconds <= MOST_SECONDS:
        raise UserError(f"--seconds {request.seconds:g} is not possible; give more than 0, at most {MOST_SECONDS:g}.")
    if not 0 <= request.threads <= MOST_THREADS:
        raise UserError(f"--threads {request.threads} is not possible; give 1 to {MOST_THREADS}, or 0 for automatic.")
    if request.engine and request.threads:
        raise UserError("--threads is about ONNX Runtime and --engine runs engines; leave one of the two out.")
    if request.fps is not None and request.video is None:
        raise UserError("--fps says how a video is sampled; give --video FILE with it.")
    check_suffix(request.output, "--output", ".json")
    check_suffix(request.plot, "--plot", ".svg")
    inputs = {} if request.video is None else {"the video": request.video}
    check_outputs({"--output": request.output, "--plot": request.plot}, inputs)
