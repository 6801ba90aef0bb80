"""Which tensor of a graph leaves its band first: comparison of one tensor, and the search over all of them.

Bands are those of `gates.py`, taken for what a tensor can have gone through:

- A tensor held against a reference that was computed FROM THE CANDIDATE'S OWN INPUTS has gone through one operator:
  layers = 1, length = the operator's longest sum. Its worst row is gated.
- A tensor at a boundary, held against a reference that never rounded to float16, has gone through all blocks so far:
  layers = their number, length = the longest sum so far. Its error as a whole is gated: sharp attention multiplies the
  rounding of single tokens by the size of their scores, which no formula of depth and length knows.

Whole numbers and truth values must be equal. How errors of floats are measured: `deviation.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.drift.deviation import measure
from sttm_export.errors import UserError, ValidationMiss
from sttm_export.validation.gates import derive_tolerance
from sttm_export.validation.metrics import encode_float

Array = NDArray[np.generic]
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Place:
    """A tensor and where it comes from.

    Attributes:
        tensor: its name in the ONNX file.
        op: the ONNX operator that makes it.
        module: path and class of the PyTorch module, such as `tower.layers.3.mlp.fc1 (Linear)`.
        source: file, line and function in this package.
        code: that line.
        dtype: format it is stored in.
        summed: longest sum on the way to it (one operator, or the blocks so far).
        blocks: blocks on the way to it, for a boundary; 0 where one operator is looked at.
        sums: format that whoever ran it sums products in.
    """

    tensor: str
    op: str
    module: str
    source: str
    code: str
    dtype: str
    summed: int = 1
    blocks: int = 0
    sums: str = "float32"


@dataclass(frozen=True)
class Check:
    """One tensor held against what it should be.

    Attributes:
        place: the tensor.
        passed: whether it is in its band.
        reason: why, in one phrase.
        measured: relative error (of the worst row, or of a boundary as a whole); for whole numbers the share that
            differs.
        allowed: the band; 0 for whole numbers.
        band: how the band was derived.
        differing: elements that differ, for whole numbers and truth values; else 0.
        nan: NaN in the tensor.
        inf: infinities in it.
        expected_nonfinite: NaN and infinities that belong there.
        low: least finite value expected.
        high: largest finite value expected.
    """

    place: Place
    passed: bool
    reason: str
    measured: float
    allowed: float
    band: str
    differing: int
    nan: int
    inf: int
    expected_nonfinite: int
    low: float
    high: float

    @property
    def peak(self) -> float:
        """Largest magnitude expected."""
        return max(abs(self.low), abs(self.high))

    @property
    def overflowed(self) -> bool:
        """Whether the tensor lost values because float16 cannot hold them."""
        return not self.passed and self.place.dtype == "float16" and self.peak > FLOAT16_MAX

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return {key: encode_float(value) if isinstance(value, float) else value for key, value in asdict(self).items()}


def check_tensor(actual: Array, expected: Array, place: Place, undefined: NDArray[np.bool_] | None = None) -> Check:
    """Hold one tensor against what it should be.

    Args:
        actual: what the candidate holds.
        expected: what it should hold; the same shape, floats in float32 or wider.
        place: which tensor; its dtype, sum and depth give the band.
        undefined: elements that may hold anything, or None.

    Raises:
        UserError: shapes differ.
    """
    if actual.shape != expected.shape:
        raise UserError(
            f"Tensor '{place.tensor}' has shape {list(actual.shape)}, PyTorch gives {list(expected.shape)}; the graph "
            "is not the one this bundle was exported as: export it again."
        )
    if actual.dtype.kind != "f":
        return _check_whole(actual, expected, place, undefined)
    if undefined is not None:
        actual = np.where(undefined, expected, actual)
    return _check_floats(actual, expected, place)


def first_out(checks: Iterable[Check], before: int = 5) -> tuple[list[Check], int]:
    """Go through checks in the order of the graph up to the first that is out of its band.

    Args:
        checks: computed one by one; none is asked for after the first that is out.
        before: how many of those before it are kept.

    Returns:
        The last checks, of which only the very last can be out; and how many were made.
    """
    kept: deque[Check] = deque(maxlen=before + 1)
    count = 0
    for check in checks:
        count += 1
        kept.append(check)
        if not check.passed:
            break
    return list(kept), count


@dataclass(frozen=True)
class DriftReport:
    """What the search found in one graph.

    Attributes:
        graph: its name.
        backend: what ran it.
        boundaries: ends of blocks in the whole graph, up to the first that is out of its band.
        checks: the last tensors that were looked at one by one; the very last may be out of its band.
        compared: how many tensors were looked at.
        tensors: how many tensors the graph has.
        covered: how many of them have a counterpart in PyTorch.
        runs: how many parts of the graph were run.
    """

    graph: str
    backend: str
    boundaries: list[Check]
    checks: list[Check]
    compared: int
    tensors: int
    covered: int
    runs: int

    @property
    def finding(self) -> Check | None:
        """The first tensor out of its band; one that an operator put there goes before a boundary."""
        for checks in (self.checks, self.boundaries):
            if checks and not checks[-1].passed:
                return checks[-1]
        return None

    @property
    def accumulated(self) -> bool:
        """Whether only a boundary of the whole graph is out: no operator alone puts its tensor there."""
        return self.finding is not None and all(check.passed for check in self.checks)

    def sentence(self) -> str:
        """The result in one sentence or two."""
        finding = self.finding
        if finding is None:
            return f"{self.graph}: none of {self.compared} tensors leaves its band ({self.coverage()}; {self.backend})."
        if self.accumulated:
            return (
                f"{self.graph}: the output of {finding.place.module}, tensor '{finding.place.tensor}', leaves its band "
                f"({finding.reason}), but no operator up to it does when each tensor is looked at: either small errors "
                "add up, or the runtime fuses operators and errs where it does."
            )
        return f"{self.graph}: {explain(finding)}"

    def coverage(self) -> str:
        """How much of the graph can be compared."""
        return f"{self.covered} of its {self.tensors} tensors have a counterpart in PyTorch"

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        rows = {"boundaries": self.boundaries, "checks": self.checks}
        finding = self.finding
        return {
            **asdict(self),
            **{key: [check.to_json() for check in checks] for key, checks in rows.items()},
            "finding": finding.to_json() if finding else None,
            "accumulated": self.accumulated,
            "sentence": self.sentence(),
        }

    def raise_on_drift(self) -> None:
        """Raise `ValidationMiss` with the finding, if there is one."""
        if self.finding is not None:
            raise ValidationMiss(self.sentence())


def explain(check: Check) -> str:
    """Say what went wrong with a tensor and, where it can be known, what to do."""
    place = check.place
    where = f"'{place.tensor}' ({place.op}) of {place.module}" + (f", {place.source}," if place.source else "")
    if check.overflowed:
        return (
            f"{where} overflows: the reference reaches {check.peak:.3g}, float16 ends at 65504; keep this in float32 "
            "(--precision fp32)."
        )
    return f"{where} is the first tensor out of its band: {check.reason}."


def _check_whole(actual: Array, expected: Array, place: Place, undefined: NDArray[np.bool_] | None) -> Check:
    differs = actual != expected
    if undefined is not None:
        differs &= ~undefined
    count = int(np.count_nonzero(differs))
    low, high = (float(expected.min()), float(expected.max())) if expected.size else (0.0, 0.0)
    reason = f"{count} of {actual.size} elements differ" if count else "equal"
    share = count / max(1, actual.size)
    return Check(place, not count, reason, share, 0.0, "must be equal", count, 0, 0, 0, low, high)


def _check_floats(actual: Array, expected: Array, place: Place) -> Check:
    tolerance = derive_tolerance(
        store=place.dtype, length=place.summed, layers=max(1, place.blocks), accumulate=place.sums
    )
    errors = measure(actual, expected, place.dtype)
    measured = errors.overall if place.blocks else errors.worst_row
    faults = (
        [f"relative error {measured:.3g}, allowed {tolerance.relative:.2g}"] if measured > tolerance.relative else []
    )
    faults += [f"{errors.one_sided} elements are NaN or Inf on one side only"] if errors.one_sided else []
    faults += [f"{errors.other} elements are another infinity or NaN"] if errors.other else []
    return Check(
        place=place,
        passed=not faults,
        reason="; ".join(faults) or f"needs {measured:.2g} of {tolerance.relative:.2g}",
        measured=measured,
        allowed=tolerance.relative,
        band=tolerance.derivation,
        differing=0,
        nan=int(np.isnan(actual).sum()),
        inf=int(np.isinf(actual).sum()),
        expected_nonfinite=errors.expected_nonfinite,
        low=errors.low,
        high=errors.high,
    )
