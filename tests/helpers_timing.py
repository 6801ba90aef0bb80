"""Results of `bench` that nobody measured: times are what a test says."""

import dataclasses

from sttm_export.machine.clocks import ClockFacts
from sttm_export.timing.result import About, Figure, Moment, Result, Runner, Settings, State, Times

ABOUT = About("tiny", "fp16", "", 4, 9, 48, 2, 0.5, "budget", 0, 0, 0, 4, 18, "the bundle's fixtures")
RUNNER = Runner("CPUExecutionProvider", "onnxruntime 1.32.0 CPUExecutionProvider", 1, "", False)


def machine(**changes):
    """A quiet machine whose clocks are pinned."""
    moment = Moment(ClockFacts(2000.0, "yes", "performance"), 0.3)
    values = {"processor": "a processor", "cores": 4, "memory": 2**33, "system": "Linux x86_64", "gpu": ""}
    values |= {"board": "", "jetpack": "", "power_mode": "", "versions": {"onnxruntime": "1.32.0"}}
    return State(**values | {"before": moment, "after": moment, "others": 0.01} | changes)


def times(median, spread=0.01, runs=20):
    """Times whose middle half reaches so far to both sides, as a share."""
    return Times(median, median * (1 - spread), median * (1 + spread), median * (1 - 2 * spread), runs)


def figure(name, median, way="", **changes):
    """A figure of these times."""
    spread = {key: changes.pop(key) for key in ("spread", "runs") if key in changes}
    made = Figure(name, way, "one call", "wall", times(median, **spread), True)
    return dataclasses.replace(made, **changes)


def result(*figures, about=ABOUT, runner=RUNNER, state=None, computed=()):
    """A result of these figures."""
    return Result(
        program="sttm-export 0",
        date="2026-11-26",
        about=about,
        runner=runner,
        settings=Settings(20, 30.0),
        machine=state or machine(),
        figures=figures,
        computed=tuple(computed),
        notes=("a note",),
        warnings=(),
    )
