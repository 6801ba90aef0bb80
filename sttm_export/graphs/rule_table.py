"""The rules of `rules.toml` and the operators of `parser_ops.toml`, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sttm_export.contracts.data import read_toml
from sttm_export.contracts.target import TargetSpec

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
