"""What validation found, stage by stage; written into the manifest and shown in the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sttm_export.errors import ValidationMiss
from sttm_export.validation.decisions import DecisionReport
from sttm_export.validation.gates import Gate
from sttm_export.validation.metrics import FloatComparison


@dataclass(frozen=True)
class StageResult:
    """One tensor of one graph in one stage, against the stage before it.

    Attributes:
        stage: what was run: `static eager`, `onnxruntime`, `engine`.
        against: what it was compared with.
        graph: name of the graph.
        tensor: name of the output.
        passed: verdict.
        reason: one sentence.
        comparison: float figures, where the tensor is one of floats.
        gate: the tolerance those were held against.
        decisions: agreement of discrete decisions, where the tensor holds such.
    """

    stage: str
    against: str
    graph: str
    tensor: str
    passed: bool
    reason: str
    comparison: FloatComparison | None = None
    gate: Gate | None = None
    decisions: DecisionReport | None = None

    @property
    def label(self) -> str:
        """`onnxruntime: token_merger.tokens against static eager`."""
        return f"{self.stage}: {self.graph}.{self.tensor} against {self.against}"

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        parts = {"comparison": self.comparison, "gate": self.gate, "decisions": self.decisions}
        plain = {key: value for key, value in vars(self).items() if key not in parts}
        return {**plain, **{key: part.to_json() if part else None for key, part in parts.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StageResult:
        """Read back what `to_json` gave."""
        kinds: dict[str, Any] = {"comparison": FloatComparison, "gate": Gate, "decisions": DecisionReport}
        return cls(**{k: kinds[k].from_json(v) if k in kinds and v is not None else v for k, v in data.items()})


@dataclass(frozen=True)
class ValidationReport:
    """All stages, in the order they ran.

    Attributes:
        results: verdicts.
        findings: facts about the inputs that are no verdict, such as non-finite features.
    """

    results: list[StageResult] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every stage passed. A report without a stage has shown nothing and does not pass."""
        return bool(self.results) and self.first_miss is None

    @property
    def first_miss(self) -> StageResult | None:
        """The first stage and tensor that departs."""
        return next((result for result in self.results if not result.passed), None)

    def __add__(self, other: ValidationReport) -> ValidationReport:
        """Join the reports of two graphs."""
        return ValidationReport([*self.results, *other.results], [*self.findings, *other.findings])

    def __iter__(self) -> Iterator[StageResult]:
        """Iterate over the results."""
        return iter(self.results)

    def raise_on_miss(self) -> None:
        """Do nothing when all stages passed.

        Raises:
            ValidationMiss: names the first stage and tensor that departs, and the smallest tolerance that would pass.
        """
        miss = self.first_miss
        if miss is None:
            if not self.results:
                raise ValidationMiss("Nothing was validated: no stage was run.")
            return
        later = sum(not result.passed for result in self.results) - 1
        more = f" {later} more check(s) after it fail as well." if later else ""
        raise ValidationMiss(f"{miss.label} departs: {miss.reason}.{_smallest_tolerance(miss)}{more}")

    def to_json(self) -> dict[str, Any]:
        """Plain dict, for `json.dump`."""
        return {
            "passed": self.passed,
            "results": [result.to_json() for result in self.results],
            "findings": list(self.findings),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ValidationReport:
        """Read back what `to_json` gave; the verdict follows from the results."""
        return cls([StageResult.from_json(row) for row in data["results"]], list(data["findings"]))


def _smallest_tolerance(miss: StageResult) -> str:
    if miss.comparison is None or miss.gate is None:
        return " No tolerance excuses a decision."
    seen = miss.comparison
    return (
        f" Smallest tolerance that would pass: relative {seen.relative_needed:.3g} by row (the gate is "
        f"{miss.gate.tolerance.relative:.3g} = {miss.gate.tolerance.derivation.split(' = ')[0]}); by element, "
        f"atol {seen.atol_needed:.3g} at rtol {seen.rtol:g}."
    )
