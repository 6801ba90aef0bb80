"""What this machine can do for each target: check its rules, build its engines, run them; and what would fix a no."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sttm_export.contracts.target import TargetSpec
from sttm_export.machine.facts import MachineFacts
from sttm_export.machine.requirements import Check, check_machine, failed

Answer = Literal["yes", "no", "unknown"]
KIT = "export here, copy the bundle to such a machine, and run bash device/build.sh there"


@dataclass(frozen=True)
class Ability:
    """One thing this machine can do for a target, or not, and why."""

    answer: Answer  # unknown where a part of it is not known
    why: str
    fix: str = ""  # what to do about a no


@dataclass(frozen=True)
class TargetVerdict:
    """A target on this machine."""

    target: str
    title: str
    check: Ability  # graphs against its rules
    build: Ability  # its engines
    run: Ability
    checks: tuple[Check, ...]  # what the answers rest on

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def examine_targets(facts: MachineFacts, targets: Sequence[TargetSpec], has_onnx: bool) -> list[TargetVerdict]:
    """Say what this machine can do for each target.

    Args:
        facts: this machine.
        targets: rows of the table.
        has_onnx: whether the package `onnx` is there, with which graphs are read to check rules.
    """
    return [_examine(facts, target, _rules(has_onnx)) for target in targets]


def _rules(has_onnx: bool) -> Ability:
    if has_onnx:
        return Ability("yes", "rules are data, no GPU is needed")
    return Ability("no", "the Python package onnx is not installed", "pip install 'sttm-export[export]'")


def _examine(facts: MachineFacts, target: TargetSpec, rules: Ability) -> TargetVerdict:
    checks = check_machine(facts, target)
    run = _ability(checks, target)
    build = run
    if target.builds_without_gpu:
        # TensorRT-RTX compiles ahead of time: everything but the GPU.
        build = _ability([check for check in checks if check.name != "GPU"], target)
    return TargetVerdict(target.name, target.title, rules, build, run, tuple(checks))


def _ability(checks: Sequence[Check], target: TargetSpec) -> Ability:
    faults = failed(checks)
    if not faults:
        doubts = [check.name for check in checks if check.status == "unknown"]
        why = f"all but {', '.join(doubts)}, which this system does not state" if doubts else "all it takes is here"
        return Ability("unknown" if doubts else "yes", why)
    if faults[0].name == "processor":
        # On another kind of machine nothing else that is missing is worth a fix.
        fix = "use a Linux x86_64 machine" if target.builds_without_gpu else KIT
        return Ability("no", f"this is {faults[0].found}, the target is {faults[0].needed}", fix)
    why = "; ".join(f"{check.name}: {check.found}, needed {check.needed}" for check in faults)
    return Ability("no", why, "; ".join(f"{check.name}: {check.fix}" for check in faults))
