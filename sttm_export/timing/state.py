"""The machine before and after: what it is, its clocks, how busy it was, and what of that makes times doubtful."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from sttm_export.machine.clocks import ClockFacts, read_clocks
from sttm_export.machine.facts import MachineFacts, read_machine
from sttm_export.machine.load import QUIET, Ticks, load, processor_name, read_ticks
from sttm_export.timing.result import Moment, State

BUSY = 0.1
"""Share of the machine from which other processes' work is called too much."""
MOVED = 0.05
"""Share by which a clock may be another one afterwards."""


class Watch:
    """Looks at the machine when it is made, and again when `state` is asked for.

    Args:
        clocks: reads clocks.
        ticks: reads what the cores did so far.
    """

    def __init__(self, clocks: Callable[[], ClockFacts] = read_clocks, ticks: Callable[[], Ticks] = read_ticks) -> None:
        self._clocks, self._ticks = clocks, ticks
        self._facts = read_machine(onnxruntime=True)
        self._before, self._start = self._moment(), ticks()

    @property
    def advice(self) -> str:
        """How to get the fastest power mode; empty where this is it, or where there is none."""
        return self._facts.power.advice

    def state(self) -> State:
        """What the machine is, and how it was in between."""
        facts, gpu = self._facts, self._facts.gpu
        others, after = self._ticks().others_since(self._start), self._moment()
        return State(
            processor=processor_name(),
            cores=os.cpu_count() or 0,
            memory=facts.memory.total or 0,
            system=f"{platform.system()} {facts.processor}",
            gpu=f"{gpu.name} ({gpu.compute_capability})" if gpu else "",
            board=facts.model,
            jetpack=facts.jetpack,
            power_mode=facts.power.mode,
            versions=_versions(facts, self._before.clocks),
            before=self._before,
            after=after,
            others=None if others is None else round(others, 3),
        )

    def _moment(self) -> Moment:
        return Moment(self._clocks(), load())


def warnings(state: State, advice: str = "") -> list[str]:
    """What makes times doubtful, one sentence each.

    Args:
        state: of the machine.
        advice: how to get the fastest power mode, if there is a faster one.
    """
    before, after = state.before.clocks, state.after.clocks
    found = []
    if state.others is not None and state.others > BUSY:
        found.append(
            f"Other processes took {state.others:.0%} of the machine meanwhile; measure when nothing else runs."
        )
    elif state.before.load > QUIET:
        found.append(f"The machine was busy before (load {state.before.load:g}); measure when nothing else runs.")
    if before.processor_pinned == "no":
        found.append(
            f"The processor's clock is not pinned (governor {before.governor or 'unknown'}); on a Jetson run sudo "
            "jetson_clocks, elsewhere sudo cpupower frequency-set -g performance."
        )
    if before.gpu_pinned == "no":
        found.append("The GPU's clock is not pinned; run sudo jetson_clocks before.")
    pairs = {"processor": (before.processor_mhz, after.processor_mhz), "GPU": (before.gpu_mhz, after.gpu_mhz)}
    for name, (first, last) in pairs.items():
        # An idle clock that rises under work is no fault; one that is lower behind it is.
        if first and last and last < (1 - MOVED) * first:
            found.append(f"The {name}'s clock fell from {first:.0f} to {last:.0f} MHz; see that it is cooled.")
    if advice:
        found.append(f"The power mode is {state.power_mode}; {advice}.")
    return found


def _versions(facts: MachineFacts, clocks: ClockFacts) -> dict[str, str]:
    """Those that times depend on, without what is not there."""
    found = {
        "python": facts.python,
        "numpy": facts.numpy.version,
        "onnxruntime": facts.onnxruntime.version if facts.onnxruntime else "",
        **{flavour: module.version for flavour, module in facts.tensorrt.items()},
        "cuda": facts.gpu.cuda if facts.gpu else "",
        "nvidia driver": clocks.driver,
        "jetson linux": facts.l4t,
    }
    return {name: version for name, version in found.items() if version}
