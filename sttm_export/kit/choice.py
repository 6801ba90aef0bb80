"""Which target this machine is: the one that was named, or the one that fits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sttm_export.contracts.records import read_json
from sttm_export.contracts.target import TargetSpec
from sttm_export.errors import UserError, did_you_mean
from sttm_export.machine.facts import MachineFacts
from sttm_export.machine.requirements import check_machine, failed

TARGETS = "targets.json"


def read_targets(path: Path) -> list[TargetSpec]:
    """Read the targets that travel with a kit.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return [TargetSpec.from_json(row) for row in read_json(path)]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged; copy the bundle anew, with its directory device/.") from error


def pick_target(
    facts: MachineFacts, targets: Sequence[TargetSpec], wanted: str | None, exported: Sequence[str]
) -> TargetSpec:
    """Return the named target, or the one that fits this machine, or the one that misses least.

    The last is not a guess to build for: its checks fail, and the user is told what the nearest target lacks.

    Args:
        facts: this machine.
        targets: those of the kit.
        wanted: name, if one was given.
        exported: targets whose rules the graphs were checked against; preferred where several fit.

    Raises:
        UserError: there is no target of that name.
    """
    names = [target.name for target in targets]
    if wanted is not None:
        if wanted not in names:
            raise UserError(f"The kit has no target '{wanted}'.{did_you_mean(wanted, names)}")
        return targets[names.index(wanted)]

    def misses(target: TargetSpec) -> tuple[bool, int, bool]:
        faults = failed(check_machine(facts, target))
        elsewhere = any(fault.name == "processor" for fault in faults)
        return elsewhere, len(faults), target.name not in exported

    return min(targets, key=misses)
