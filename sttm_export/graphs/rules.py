"""What a target cannot build, or builds wrongly: the rules of `rules.toml` applied to one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.contracts.target import TargetSpec
from sttm_export.graphs.detectors import find_places
from sttm_export.graphs.rule_table import Rule, rules
from sttm_export.graphs.structure import Structure, load_structure


@dataclass(frozen=True)
class Finding:
    """One place where a graph breaks a rule."""

    rule: Rule
    target: str
    where: str
    detail: str

    def __str__(self) -> str:
        """One line for a log or a terminal."""
        detail = f" ({self.detail})" if self.detail else ""
        rule = self.rule
        return f"{rule.severity} {rule.id}: {self.where}{detail}: {rule.what}. Instead: {rule.instead}."


def structures_of(onnx_path: Path, row_counts: Sequence[int] = ()) -> list[Structure]:
    """Load a graph as a builder sees it: with a free number of rows once for each profile, all shapes in numbers.

    Raises:
        UserError: the file is missing or is not an ONNX graph.
        GraphError: types or shapes in it contradict each other.
    """
    return [load_structure(onnx_path, rows) for rows in row_counts or (0,)]


def check_rules(onnx_path: Path, target: TargetSpec, row_counts: Sequence[int] = ()) -> list[Finding]:
    """Apply every rule that speaks of the target; see `structures_of` for the arguments and what is raised."""
    return check_structures(structures_of(onnx_path, row_counts), target)


def check_structures(structures: Sequence[Structure], target: TargetSpec) -> list[Finding]:
    """The same for a graph that is loaded already; what is found in every profile is told once."""
    found = (finding for structure in structures for finding in check_structure(structure, target))
    return list({str(finding): finding for finding in found}.values())


def check_structure(structure: Structure, target: TargetSpec) -> list[Finding]:
    """Rules in the order of the table, places in the order of the graph."""
    found: list[Finding] = []
    for rule in rules().values():
        if rule.applies_to(target):
            places = find_places(rule, structure, target)
            found.extend(Finding(rule, target.name, where, detail) for where, detail in places)
    return found
