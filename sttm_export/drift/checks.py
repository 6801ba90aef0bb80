"""One tensor held against what it should be, in the band of what it has gone through.

Bands are those of `validation/gates.py`. A tensor held against what PyTorch makes of the candidate's own inputs has
gone through one operator (layers = 1, length = its longest sum), and its worst row is gated. The end of a block has
gone through all blocks so far; its error as a whole is gated, because sharp attention multiplies the rounding of single
tokens by the size of their scores, which no formula of depth and length knows. Whole numbers and truth values must be
equal. How errors of floats are measured: `deviation.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.drift.deviation import measure
from sttm_export.errors import UserError
from sttm_export.validation.gates import derive_tolerance

Array = NDArray[np.generic]
FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Place:
    """A tensor and where it comes from."""

    tensor: str  # its name in the ONNX file
    op: str  # the ONNX operator that makes it
    module: str  # path and class of the PyTorch module, such as `tower.layers.3.mlp.fc1 (Linear)`
    source: str  # file, line and function in this package
    code: str  # that line
    dtype: str  # format it is stored in
    summed: int = 1  # longest sum on the way to it (one operator, or the blocks so far)
    blocks: int = 0  # blocks on the way to it, for the end of one; 0 where one operator is looked at
    sums: str = "float32"  # format that whoever ran it sums products in
    int8: bool = False  # for the end of a block: whether products before it have int8 factors
    through: str = ""  # for the end of a block: the coarsest format of a tensor on the way; empty for `dtype`


@dataclass(frozen=True)
class Check:
    """One tensor held against what it should be."""

    place: Place
    passed: bool  # whether it is in its band
    reason: str  # why, in one phrase
    measured: float  # relative error (of the worst row, or of a block's end as a whole); of whole numbers the share
    allowed: float  # the band; 0 for whole numbers
    band: str  # how the band was derived
    differing: int = 0  # whole numbers and truth values that differ
    nan: int = 0
    inf: int = 0
    expected_nonfinite: int = 0  # NaN and infinities that belong there
    low: float = 0.0  # least finite value expected
    high: float = 0.0  # largest finite value expected

    @property
    def overflowed(self) -> bool:
        """Whether the tensor lost values because float16 cannot hold them."""
        return not self.passed and self.place.dtype == "float16" and max(-self.low, self.high) > FLOAT16_MAX

    @property
    def sentence(self) -> str:
        """What went wrong with the tensor and, where it can be known, what to do."""
        place = self.place
        where = f"'{place.tensor}' ({place.op}) of {place.module}" + (f", {place.source}," if place.source else "")
        if not self.overflowed:
            return f"{where} is the first tensor out of its band: {self.reason}."
        return (
            f"{where} overflows: the reference reaches {max(-self.low, self.high):.3g}, float16 ends at 65504; keep "
            "this in float32 (--precision fp32)."
        )


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
    if undefined is not None:
        actual = np.where(undefined, expected, actual)
    return _check_floats(actual, expected, place) if actual.dtype.kind == "f" else _check_whole(actual, expected, place)


def _check_whole(actual: Array, expected: Array, place: Place) -> Check:
    count = int(np.count_nonzero(actual != expected))
    low, high = (float(expected.min()), float(expected.max())) if expected.size else (0.0, 0.0)
    reason = f"{count} of {actual.size} elements differ" if count else "equal"
    share = count / max(1, actual.size)
    return Check(place, not count, reason, share, 0.0, "must be equal", differing=count, low=low, high=high)


def _check_floats(actual: Array, expected: Array, place: Place) -> Check:
    tolerance = derive_tolerance(
        store=place.through or place.dtype,
        length=place.summed,
        layers=max(1, place.blocks),
        accumulate=place.sums,
        int8=place.int8,
    )
    errors = measure(actual, expected, place.dtype)
    measured, allowed = errors.overall if place.blocks else errors.worst_row, tolerance.relative
    faults = [f"relative error {measured:.3g}, allowed {allowed:.2g}"] if measured > allowed else []
    faults += [f"{errors.one_sided} elements are NaN or Inf on one side only"] if errors.one_sided else []
    faults += [f"{errors.other} elements are another infinity or NaN"] if errors.other else []
    return Check(
        place,
        not faults,
        "; ".join(faults) or f"needs {measured:.2g} of {allowed:.2g}",
        measured,
        allowed,
        tolerance.derivation,
        nan=int(np.isnan(actual).sum()),
        inf=int(np.isinf(actual).sum()),
        expected_nonfinite=errors.expected_nonfinite,
        low=errors.low,
        high=errors.high,
    )
