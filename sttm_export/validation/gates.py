"""Tolerances derived from number formats and depth, and the verdict on a measured difference.

One number, the relative tolerance ε of a row, gates both figures: for a row with relative error ε the norm ratio is
within 1 ± ε, and the cosine at least 1 - ε²/2. It is the expected rounding error of the computation, with a margin:

    ε = 2 · sqrt(layers) · ( u_store · sqrt(8) + u_sum · sqrt(length / 16) + u_function · 4 )

u: unit roundoff, half the distance from 1 to the next number. Reasons for each part:

- `u_store · sqrt(8)`: a layer writes about eight tensors (norm, q, k, v, scores, context, two of the MLP), each rounded
  to the storage format. Roundings are independent, so their squares add.
- Where a decoder's attention is sharp, a weight is wrong by the absolute error of its score. Two factors of a score of
  size s are stored, which adds 2·s² under that root. An encoder's branches are small beside its stream and need none.
- `u_sum · sqrt(length / 16)`: a sum of `length` terms, in the format it is accumulated in. Every library adds in at
  least 16 interleaved partial sums (SIMD lanes, tensor-core tiles), so a chain has length/16 links; errors of a chain
  grow with the square root of its links, not with their number.
- `u_function · 4`: exp, erf, tanh and 1/sqrt are polynomials good to a few units in the last place, every library has
  its own; one or two stand in each layer (softmax, GELU, norm), in float32 or better whatever products are summed in.
- `sqrt(layers)`: layers add independent errors of like size to the residual stream.
- 2: two computations are compared, and the worst row is gated where the estimate is of the typical one.

Two cases of float16 graphs. Where the graph asks for float32 sums (`--accumulate fp32`), u_sum is 2^-24 and what is
stored decides: 0.015 for SigLIP so400m (28 layers, sums of 4304). Where it leaves that open, whatever runs it may sum
in float16. A tensor core adds the 16 products of a tile before it rounds, so that a chain has length/16 links there,
too, but each is good to u_sum = 2^-11 only: 0.099 for the same tower. A float32-summed engine could then be seven times
as wrong as it need be and pass; that is the price of leaving it open.

A worst-case bound (u · length · layers) would pass anything in float16 and gate nothing.

Where products have int8 factors, a second term is added:

    ε_int8 = 2 · sqrt( 2 · (q_a² + q_w²) · (ln(2 · layers) + 1.58) ),   q_a = 7 / (127 · sqrt(12)),   q_w = 4 / (…)

- `q`: symmetric int8 up to a multiple of the standard deviation σ, whose step of 7σ/127 (4σ/127) leaves 1/sqrt(12) of
  itself as rounding. Four σ are about what loses least of a normal variable in eight bits, as weights of one output
  are; seven of a Laplace variable, as activations are in their worse places (Banner et al., arXiv 1810.05723). That is
  36 and 41 dB. It is what well-chosen ranges give. The ranges that a file holds have no part in it: bad ones would
  excuse themselves.
- `2 · (q_a² + q_w²)`: each branch (attention, MLP) has two products in sequence, each with two factors.
- `ln(2 · layers) + 0.58`: the harmonic sum over the branches. Each adds its own error to the stream, where it is one of
  k contributions of like size, and passes on the error it has read, at the same share. The stream dilutes what it
  carries, so the error grows with the logarithm of depth and not with its root.
- `+ 1`: the two products behind the stream (projector, merger), diluted by nothing.
- 2: the worst row is gated where the estimate is of the typical one.

The same band holds two int8 computations against each other, such as the exported graph and the eager module. What they
read differs by float16 roundings only, but near the middle between two levels that decides the level: inputs that
differ by a share d of a step come out a whole step apart with a frequency of d, an energy of d instead of d². So small
differences grow, layer by layer, until the roundings of activations are independent: 2 · q_a² a product where the
formula has q_a² + q_w², a fifth more in amplitude, and weights are rounded alike in both. The integer products
themselves are exact.
"""

from __future__ import annotations

import math
import platform
from dataclasses import dataclass
from typing import Any

from sttm_export.contracts.graph import Accumulate
from sttm_export.errors import UserError, did_you_mean
from sttm_export.validation.metrics import FloatComparison, encode_float

UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-11,  # what tensor cores make of float32 factors unless that is switched off
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
_MARGIN, _STORED_PER_LAYER, _LANES, _FUNCTIONS = 2.0, 8, 16, 4
INT8_ACTIVATION, INT8_WEIGHT = 7.0, 4.0
"""Standard deviations that int8 reaches over in a factor of a product."""
_HARMONIC = 0.58


@dataclass(frozen=True)
class Tolerance:
    """A relative tolerance and where it comes from."""

    relative: float  # ε
    derivation: str  # the formula with its numbers filled in


@dataclass(frozen=True)
class Gate:
    """A tolerance beside the error it was held against."""

    tolerance: Tolerance
    needed: float
    passed: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return {
            "relative": self.tolerance.relative,
            "derivation": self.tolerance.derivation,
            "needed": encode_float(self.needed),
            "passed": self.passed,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Gate:
        """Read back what `to_json` gave."""
        tolerance = Tolerance(data["relative"], data["derivation"])
        return cls(tolerance, float(data["needed"]), data["passed"], data["reason"])


def unit_roundoff(dtype: str) -> float:
    """Unit roundoff of a number format; an unknown one is a `UserError`."""
    if dtype not in UNIT_ROUNDOFF:
        raise UserError(f"Unknown number format '{dtype}'.{did_you_mean(dtype, UNIT_ROUNDOFF)}")
    return UNIT_ROUNDOFF[dtype]


def derive_tolerance(
    *, store: str, length: int, layers: int, accumulate: str = "float32", scores: float = 0.0, int8: bool = False
) -> Tolerance:
    """Return ε for a computation (formula and reasons: top of this file).

    Args:
        store: format of the tensors between operators, such as `float16`.
        length: longest sum, such as the MLP width.
        layers: layers in sequence; 1 for a single step.
        accumulate: format of the sums.
        scores: size of attention scores; 0 where their rounding does not show.
        int8: whether products have int8 factors.
    """
    stored = unit_roundoff(store) * math.sqrt(_STORED_PER_LAYER + 2.0 * scores**2)
    summed = unit_roundoff(accumulate) * math.sqrt(max(length / _LANES, 1.0))
    functions = "float32" if unit_roundoff(accumulate) > unit_roundoff("float32") else accumulate
    evaluated = unit_roundoff(functions) * _FUNCTIONS
    relative = _MARGIN * math.sqrt(layers) * (stored + summed + evaluated)
    under = f"({_STORED_PER_LAYER} + 2·{scores:g}²)" if scores else str(_STORED_PER_LAYER)
    terms = f"u({store})·√{under} + u({accumulate})·√({length}/{_LANES}) + u({functions})·{_FUNCTIONS}"
    derivation = f"{_MARGIN:g}·√{layers}·({terms})"
    if int8:
        activation, weight = (wide / (127.0 * math.sqrt(12.0)) for wide in (INT8_ACTIVATION, INT8_WEIGHT))
        diluted = math.log(2 * layers) + _HARMONIC + 1.0
        relative += _MARGIN * math.sqrt(2.0 * (activation**2 + weight**2) * diluted)
        derivation += f" + {_MARGIN:g}·√(2·({activation:.4f}² + {weight:.4f}²)·(ln {2 * layers} + {_HARMONIC + 1.0:g}))"
    return Tolerance(relative, f"{derivation} = {relative:.3g}")


def format_of_sums(store: str, accumulate: Accumulate, backend: str) -> str:
    """Return what a stage sums its products in.

    Args:
        store: format of the graph's tensors.
        accumulate: what the graph asks for.
        backend: of the session, as `Session.backend` names it. ONNX Runtime sums float16 products in float32 on x86
            processors, which have no float16 arithmetic of that kind; of others that is not assumed.
    """
    if store != "float16" or accumulate == "fp32":
        return "float32"
    on_x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return "float32" if backend.endswith("CPUExecutionProvider") and on_x86 else "float16"


def judge(comparison: FloatComparison, tolerance: Tolerance) -> Gate:
    """Hold cosine, norm ratio and finiteness against the tolerance; the reason names what missed."""
    faults = []
    if comparison.nonfinite_differing:
        faults.append(f"{comparison.nonfinite_differing} elements are NaN or Inf on one side only")
    if comparison.angle_max > tolerance.relative:
        faults.append(f"cosine falls to {comparison.cosine_min:.9g}, allowed 1 - {0.5 * tolerance.relative**2:.2g}")
    if not abs(comparison.norm_ratio_min - 1.0) <= tolerance.relative:
        faults.append(f"norm ratio falls to {comparison.norm_ratio_min:.6g}, allowed 1 ± {tolerance.relative:.2g}")
    if not abs(comparison.norm_ratio_max - 1.0) <= tolerance.relative:
        faults.append(f"norm ratio rises to {comparison.norm_ratio_max:.6g}, allowed 1 ± {tolerance.relative:.2g}")
    if faults and not comparison.nonfinite_differing:
        faults.append(f"a relative tolerance of {comparison.relative_needed:.3g} would pass")
    elif not faults and comparison.rows == 0:
        faults = ["no finite row to compare"] if comparison.nonfinite_expected else []
        return Gate(tolerance, 0.0, not faults, faults[0] if faults else "no rows to compare")
    reason = "; ".join(faults) or f"needs {comparison.relative_needed:.2g} of {tolerance.relative:.2g}"
    return Gate(tolerance, comparison.relative_needed, not faults, reason)
