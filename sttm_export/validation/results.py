"""What validation found, stage by stage; written into the manifest and shown in the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sttm_export.errors import ValidationMiss, in_lines
from sttm_export.validation.decisions import DecisionReport
from sttm_export.validation.gates import Gate
from sttm_export.validation.metrics import FloatComparison


@dataclass(frozen=True)
class StageResult:
    """One tensor of one graph in one stage, against the stage before it."""

    stage: str  # what was run: `static eager`, `onnxruntime`, `engine`
    against: str  # what it was compared with; empty where a tensor is judged by itself
    graph: str  # name of the graph
    tensor: str  # name of the output
    passed: bool  # verdict
    reason: str  # one sentence
    comparison: FloatComparison | None = None  # float figures, where the tensor is one of floats
    gate: Gate | None = None  # the tolerance those were held against
    decisions: DecisionReport | None = None  # agreement of discrete decisions, where the tensor holds such
    skipped: bool = False  # it could not be judged, and the reason says why; then it has not passed either
    # What it was run on: `4 frames of holiday.mp4`.
    clip: str = ""

    @property
    def tensor_name(self) -> str:
        """`token_merger.tokens`."""
        return f"{self.graph}.{self.tensor}"

    @property
    def headline(self) -> str:
        """`onnxruntime: token_merger.tokens departs from static eager, on 4 frames of a.mp4`."""
        verb = f"departs from {self.against}" if self.against else "is not as it must be"
        on = f", on {self.clip}" if self.clip else ""
        return f"{self.stage}: {self.tensor_name} {'was not judged' if self.skipped else verb}{on}"

    @property
    def measured(self) -> str:
        """What was measured against what is allowed, and the smallest tolerance that would pass."""
        if self.decisions is not None:
            differing = f"{self.decisions.cells_differing} of {self.decisions.cells} cells differ"
            allowed = f"allowed where a similarity is within {self.decisions.band:.2g} of its threshold"
            return f"{differing}, {allowed}; {self.reason}; no tolerance excuses a decision"
        if self.comparison is None or self.gate is None:
            return self.reason
        seen, gate = self.comparison, self.gate
        ratios = f"norm ratio {seen.norm_ratio_min:.6g} to {seen.norm_ratio_max:.6g}"
        return (
            f"measured {gate.needed:.3g} by row (cosine {seen.cosine_min:.9g}, {ratios}), allowed "
            f"{gate.tolerance.relative:.3g}; smallest tolerance that would pass: {gate.needed:.3g} by row, or by "
            f"element atol {seen.atol_needed:.3g} at rtol {seen.rtol:g}"
        )

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
    """All stages, in the order they ran."""

    results: list[StageResult] = field(default_factory=list)  # verdicts
    # Facts about the inputs that are no verdict, such as non-finite features.
    findings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every stage passed. A report without a stage has shown nothing and does not pass."""
        return bool(self.results) and self.first_miss is None

    @property
    def first_miss(self) -> StageResult | None:
        """The first stage and tensor that departs; one that was not judged only where none departs."""
        bad = [result for result in self.results if not result.passed]
        return next((result for result in bad if not result.skipped), bad[0] if bad else None)

    def __add__(self, other: ValidationReport) -> ValidationReport:
        """Join the reports of two graphs."""
        return ValidationReport([*self.results, *other.results], [*self.findings, *other.findings])

    def __iter__(self) -> Iterator[StageResult]:
        """Iterate over the results."""
        return iter(self.results)

    def on(self, clip: str) -> ValidationReport:
        """The same report, every result saying what it was run on; `clip` goes behind what a result says already."""
        rows = [replace(row, clip=f"{row.clip} of {clip}" if row.clip else clip) for row in self.results]
        return ValidationReport(rows, self.findings)

    def miss_lines(self) -> list[str]:
        """Two lines about the first miss: what departs, and what was measured; empty where all passed."""
        miss = self.first_miss
        if miss is None:
            return [] if self.results else ["Nothing was validated: no stage was run."]
        unjudged = sum(row.skipped for row in self.results if row is not miss)
        later = sum(not row.passed for row in self.results if row is not miss) - unjudged
        more = [f"{later} more miss"] if later else []
        more += [f"{unjudged} could not be judged"] if unjudged else []
        joined = ", ".join(more)
        return [f"{miss.headline}{f' ({joined})' if more else ''}.", f"{miss.measured}."]

    def raise_on_miss(self, evidence: str = "") -> None:
        """Do nothing when all stages passed.

        Args:
            evidence: the last line: where the evidence lies, and how the cause is found.

        Raises:
            ValidationMiss: three lines: the first stage and tensor that departs; measured against allowed, and the
                smallest tolerance that would pass; the evidence.
        """
        if lines := self.miss_lines():
            raise ValidationMiss(in_lines([*lines, evidence]))

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


def skipped(stage: str, against: str, graph: str, tensor: str, why: str) -> StageResult:
    """A tensor that cannot be judged, and why."""
    return StageResult(stage, against, graph, tensor, False, f"not judged: {why}", skipped=True)
