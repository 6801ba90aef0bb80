"""What a search found in one graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sttm_export.drift.checks import Check
from sttm_export.errors import ValidationMiss
from sttm_export.validation.metrics import encode_float


@dataclass(frozen=True)
class DriftReport:
    """What the search found in one graph."""

    graph: str
    backend: str  # what ran it
    boundaries: list[Check]  # ends of blocks in the whole graph, up to the first that is out of its band
    checks: list[Check]  # the last tensors that were looked at one by one; the very last may be out of its band
    compared: int  # how many tensors were looked at one by one
    tensors: int  # how many tensors the graph has
    covered: int  # how many of them have a counterpart in PyTorch
    runs: int  # how many parts of the graph were run

    @property
    def finding(self) -> Check | None:
        """The first tensor out of its band; one that an operator put there goes before the end of a block."""
        return next((checks[-1] for checks in (self.checks, self.boundaries) if checks and not checks[-1].passed), None)

    @property
    def accumulated(self) -> bool:
        """Whether only the end of a block in the whole graph is out: no operator alone puts its tensor there."""
        return self.finding is not None and all(check.passed for check in self.checks)

    @property
    def sentence(self) -> str:
        """The result in one sentence or two."""
        finding = self.finding
        if finding is None:
            return (
                f"{self.graph}: none of {self.compared} tensors leaves its band ({self.covered} of its {self.tensors} "
                f"tensors have a counterpart in PyTorch; {self.backend})."
            )
        if self.accumulated:
            return (
                f"{self.graph}: the output of {finding.place.module}, tensor '{finding.place.tensor}', leaves its band "
                f"({finding.reason}), but no operator up to it does when each tensor is looked at: either small errors "
                "add up, or the runtime fuses operators and errs where it does."
            )
        return f"{self.graph}: {finding.sentence}"

    def to_json(self) -> dict[str, Any]:
        """Plain dict, with numbers that JSON can hold."""
        finding = asdict(self.finding, dict_factory=_plain) if self.finding else None
        said = {"finding": finding, "accumulated": self.accumulated, "sentence": self.sentence}
        return asdict(self, dict_factory=_plain) | said

    def raise_on_drift(self) -> None:
        """Raise `ValidationMiss` with the finding, if there is one."""
        if self.finding is not None:
            raise ValidationMiss(self.sentence)


def _plain(rows: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: encode_float(value) if isinstance(value, float) else value for key, value in rows}
