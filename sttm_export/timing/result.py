"""A result of `bench` as records, and its file: what was measured, computed and counted, of what, on what."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from sttm_export.contracts.records import Count, Range, read_json, read_record
from sttm_export.errors import UserError
from sttm_export.machine.clocks import ClockFacts
from sttm_export.timing.clock import Measured, Spread

FORMAT, KIND = 1, "sttm-export bench"
AGAIN = "measure again with `sttm-export bench BUNDLE --output FILE.json`"
_DIGITS = 6
Milliseconds = Annotated[float, Range(0.0, 1e12)]
Clock = Literal["wall", "gpu"]


@dataclass(frozen=True)
class Times:
    """Milliseconds of runs: half of them lie from `lower` to `upper`."""

    median: Milliseconds
    lower: Milliseconds
    upper: Milliseconds
    least: Milliseconds
    runs: Annotated[int, Range(1, 10**9)]

    @classmethod
    def of(cls, spread: Spread) -> Times:
        """To six digits, which is more than a clock has."""
        return cls(_short(spread.median), _short(spread.lower), _short(spread.upper), _short(spread.least), spread.runs)


@dataclass(frozen=True)
class Counts:
    """What one run asks of the GPU.

    Kernels of an engine are nodes of a captured run. Copies, launches of CUDA graphs and synchronizations are calls of
    the driver; TensorRT itself waits for nothing in between, or the run could not have been captured.
    """

    kernels: Count | None  # that run; None for runs of several engines
    launches: Count | None  # of kernels and what else the engine puts on the GPU, one by one; of CUDA graphs
    copies: Count  # between host and GPU, asked for one by one
    synchronizations: Count


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, in one way."""

    name: str  # such as `encoder` or `first token`
    way: str  # what it is compared under in the same run, such as `merged` and `all tokens`; empty for the only one
    work: str  # what one run does
    clock: Clock  # on the wall, or of the GPU (CUDA events)
    times: Times
    settled: bool  # whether its warm-up ended because times had settled
    parts: dict[str, Times] = field(default_factory=dict)
    counts: Counts | None = None

    @classmethod
    def of(cls, name: str, way: str, work: str, measured: Measured, **more: Any) -> Figure:
        """Of what the clock gave."""
        parts = {part: Times.of(spread) for part, spread in measured.parts.items()}
        more = {"clock": "wall"} | more
        return cls(name, way, work, times=Times.of(measured.whole), settled=measured.settled, parts=parts, **more)

    @property
    def key(self) -> str:
        """What it is found by in another result."""
        return f"{self.name}, {self.way}" if self.way else self.name


@dataclass(frozen=True)
class Computed:
    """A number that was not measured, and how it came about."""

    name: str
    value: Annotated[float, Range(-1e15, 1e15)]
    unit: str
    how: str


@dataclass(frozen=True)
class About:
    """What was measured: two results of other values than these say nothing about each other."""

    model: str
    precision: str
    weights: str  # of the decoder: `float`, `int4`, or empty where there is none
    frames: Count  # T of the bundle, in steps
    cells: Count  # N
    channels: Count  # C
    batch: Count  # B
    budget: float
    policy: str
    merge_layer: Count  # L
    layers: Count  # of the decoder; 0 where there is none
    chunk: Count  # rows of a call of a prefill; 0 where there is no decoder
    steps: Count  # T' of the clip that was measured
    tokens: Count  # of it that were kept
    source: str  # where the frames came from


@dataclass(frozen=True)
class Runner:
    """What ran the graphs."""

    by: str  # `CPUExecutionProvider`, or `tensorrt`
    backend: str  # with its version
    threads: Count  # within an operator, as asked for; 0: its own choice
    target: str  # of the engines; empty where there are none
    cuda_graph: bool  # whether pipeline and prefill launched engines as CUDA graphs


@dataclass(frozen=True)
class Moment:
    """The machine at one moment."""

    clocks: ClockFacts
    load: float  # average of the last minute


@dataclass(frozen=True)
class State:
    """The machine that it was measured on. Nothing that names it or its user."""

    processor: str
    cores: Count
    memory: Count  # bytes; 0 where it is not known
    system: str  # such as `Linux x86_64`
    gpu: str  # name and compute capability; empty where there is none
    board: str  # of a Jetson
    jetpack: str
    power_mode: str
    versions: dict[str, str]
    before: Moment
    after: Moment
    others: float | None  # share of the machine that other processes took meanwhile


@dataclass(frozen=True)
class Settings:
    """How long it was measured."""

    runs: Count
    seconds: float


@dataclass(frozen=True)
class Result:
    """All of it."""

    program: str
    date: str
    about: About
    runner: Runner
    settings: Settings
    machine: State
    figures: tuple[Figure, ...]
    computed: tuple[Computed, ...]
    notes: tuple[str, ...]  # what one has to know to read the figures
    warnings: tuple[str, ...]  # what makes them doubtful

    def figure(self, name: str, way: str = "") -> Figure | None:
        """The one that was measured under these names."""
        return next((figure for figure in self.figures if (figure.name, figure.way) == (name, way)), None)

    def to_json(self) -> str:
        """The file's text."""
        data = {"format": FORMAT, "kind": KIND, **dataclasses.asdict(self)}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def read_result(path: Path) -> Result:
    """Read the file of a result.

    Raises:
        UserError: none, of another format, or with values that `bench` does not write.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is no result of bench ({error}); {AGAIN}.") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise UserError(f"{path} is no result of bench; {AGAIN}.")
    if data.get("format") != FORMAT:
        raise UserError(f"{path} has format {data.get('format')!r:.40}, this program reads format {FORMAT}; {AGAIN}.")
    faults: list[str] = []
    result: Result | None = read_record(Result, data, faults)
    if result is None:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path} is not as bench writes it: {'; '.join(faults[:3])}{more}; {AGAIN}.")
    return result


def computed(name: str, value: float, unit: str, how: str) -> Computed:
    """A computed number, to six digits."""
    return Computed(name, _short(value), unit, how)


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
