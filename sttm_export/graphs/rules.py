"""What a target cannot build, or builds wrongly: the rules of `rules.toml` applied to one graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sttm_export.spec.files import read_toml
from sttm_export.spec.target import TargetSpec

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Rule:
    """One table of `rules.toml`, where the fields are explained."""

    id: str
    what: str
    why: str
    instead: str
    source: str
    severity: Literal["error", "warning"]
    tensorrt_since: tuple[int, ...] = (0,)
    tensorrt_before: tuple[int, ...] = (1000,)
    rtx: bool = True
    ops: frozenset[str] = frozenset()

    def applies_to(self, target: TargetSpec) -> bool:
        """Whether the target's TensorRT is one this rule speaks of."""
        if target.flavour == "tensorrt-rtx":
            return self.rtx
        return self.tensorrt_since <= target.tensorrt < self.tensorrt_before


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
    from sttm_export.graphs.detectors import find_places
    from sttm_export.graphs.structure import load_structure

    structure = load_structure(onnx_path)
    found: list[Finding] = []
    for rule in rules().values():
        if rule.applies_to(target):
            places = find_places(rule, structure, target)
            found.extend(Finding(rule, target.name, where, detail) for where, detail in places)
    return found


@cache
def rules() -> dict[str, Rule]:
    """All rules by id."""
    return {name: _rule(name, row) for name, row in read_toml(HERE / "rules.toml").items()}


def parser_knows(op: str, target: TargetSpec) -> bool:
    """Whether the target's ONNX parser imports an operator of the standard domain."""
    table = _parser_ops()
    if op not in table["ops"]:
        return False
    if target.flavour == "tensorrt-rtx":
        return op not in table["not_rtx"]
    return target.tensorrt >= tuple(table["since"].get(op, (0,)))


@cache
def _parser_ops() -> dict[str, Any]:
    return read_toml(HERE / "parser_ops.toml")


def _rule(name: str, row: dict[str, Any]) -> Rule:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Rule(id=name, **(values | {"ops": frozenset(row.get("ops", ()))}))
