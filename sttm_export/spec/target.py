"""Where an engine runs: TensorRT version, opsets, precisions, compute capabilities, and where it is built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sttm_export.errors import UserError, did_you_mean
from sttm_export.spec.files import PACKAGE, read_toml


@dataclass(frozen=True)
class TargetSpec:
    """One row of `spec/targets.toml`."""

    name: str
    title: str
    flavour: Literal["tensorrt", "tensorrt-rtx"]
    tensorrt: tuple[int, ...]
    opsets: tuple[int, int]
    precisions: tuple[str, ...]
    compute_capabilities: tuple[str, ...]
    built: str
    source: str

    @property
    def builds_without_gpu(self) -> bool:
        """Only TensorRT-RTX compiles ahead of time on a machine with no GPU."""
        return self.flavour == "tensorrt-rtx"

    @property
    def tensorrt_version(self) -> str:
        """The version as NVIDIA writes it."""
        return ".".join(map(str, self.tensorrt))


@cache
def targets() -> dict[str, TargetSpec]:
    """All targets by name, in the order of the table."""
    rows: dict[str, dict[str, Any]] = read_toml(PACKAGE / "spec" / "targets.toml")
    return {name: _target(name, row) for name, row in rows.items()}


def find_target(name: str) -> TargetSpec:
    """Return a target by name; an unknown one is a `UserError` with the nearest name."""
    if name not in targets():
        raise UserError(f"Unknown target '{name}'.{did_you_mean(name, targets())}")
    return targets()[name]


def _target(name: str, row: dict[str, Any]) -> TargetSpec:
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return TargetSpec(name=name, **lists)
