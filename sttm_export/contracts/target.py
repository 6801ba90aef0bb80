"""Where an engine runs: TensorRT version, opsets, precisions, compute capabilities, and where it is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sttm_export.contracts.data import PACKAGE, read_toml
from sttm_export.contracts.graph import PRECISIONS
from sttm_export.contracts.records import read_record
from sttm_export.errors import UserError, did_you_mean

Machine = Literal["x86_64", "aarch64"]
Built = Literal["anywhere", "device", "gpu-host"]


@dataclass(frozen=True)
class TargetSpec:
    """One row of `contracts/targets.toml`, where the fields are explained."""

    name: str
    title: str
    flavour: Literal["tensorrt", "tensorrt-rtx"]
    tensorrt: tuple[int, ...]
    opsets: tuple[int, int]
    precisions: tuple[str, ...]
    compute_capabilities: tuple[str, ...]
    machine: Machine
    built: Built
    source: str
    jetpack: tuple[str, ...] = ()
    l4t: tuple[str, ...] = ()
    image: str = ""
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def builds_without_gpu(self) -> bool:
        """Only TensorRT-RTX compiles ahead of time on a machine with no GPU."""
        return self.flavour == "tensorrt-rtx"

    @property
    def tensorrt_version(self) -> str:
        """The version as NVIDIA writes it."""
        return ".".join(map(str, self.tensorrt))

    def has_tensorrt(self, version: str) -> bool:
        """Whether a TensorRT is the target's, by its full version: an engine runs only with the one that built it."""
        return version.split(".")[: len(self.tensorrt)] == self.tensorrt_version.split(".")

    def check_precision(self, precision: str) -> None:
        """Refuse a precision that the hardware or its TensorRT does not have, with the reason.

        Raises:
            UserError: the reason, and the precisions that a graph can have.
        """
        if precision in self.lacks:
            raise UserError(
                f"Target '{self.name}' lacks {precision}: {self.lacks[precision]}; choose --precision "
                f"{' or '.join(PRECISIONS)}."
            )

    def check_decoder_weights(self, weights: str) -> None:
        """The same of what the weights of a decoder are stored in.

        Raises:
            UserError: the reason, and the targets that have it.
        """
        if weights in self.lacks:
            others = ", ".join(name for name, row in targets().items() if weights not in row.lacks)
            raise UserError(
                f"Target '{self.name}' lacks {weights}: {self.lacks[weights]}; leave --decoder-precision {weights} "
                f"out, or choose a target that has it: {others}."
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; a device has no reader for TOML, so the row travels as JSON."""
        return dataclasses.asdict(self) | {"lacks": dict(self.lacks)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TargetSpec:
        """Read back what `to_json` gave.

        Raises:
            ValueError: it is not what `to_json` gives; every fault in one message.
        """
        faults: list[str] = []
        target: TargetSpec | None = read_record(cls, data, faults)
        if target is None:
            raise ValueError("; ".join(faults))
        return target


@cache
def targets() -> dict[str, TargetSpec]:
    """All targets by name, in the order of the table."""
    rows: dict[str, dict[str, Any]] = read_toml(PACKAGE / "contracts" / "targets.toml")
    return {name: _target(name, row) for name, row in rows.items()}


def find_target(name: str) -> TargetSpec:
    """Return a target by name; an unknown one is a `UserError` with the nearest name."""
    if name not in targets():
        raise UserError(f"Unknown target '{name}'.{did_you_mean(name, targets())}")
    return targets()[name]


def _target(name: str, row: Mapping[str, Any]) -> TargetSpec:
    lists: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return TargetSpec(name=name, **lists)
