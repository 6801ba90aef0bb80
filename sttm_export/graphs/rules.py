"""What a target cannot build, or builds wrongly: the rules of `rules.toml` applied to one graph."""

from __future__ import annotations

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


def check_rules(onnx_path: Path, target: TargetSpec) -> list[Finding]:
    """Apply every rule that speaks of the target; rules in the order of the table, places in the order of the graph.

    Raises:
        UserError: the file is missing or is not an ONNX graph.
        GraphError: types or shapes in it contradict each other.
    """
    return check_structure(load_structure(onnx_path), target)


def check_structure(structure: Structure, target: TargetSpec) -> list[Finding]:
    """The same for a graph that is loaded already, to be held against several targets."""
    found: list[Finding] = []
    for rule in rules().values():
        if rule.applies_to(target):
            places = find_places(rule, structure, target)
            found.extend(Finding(rule, target.name, where, detail) for where, detail in places)
    return found
