"""A part of a decoder with weights of four bits: its products quantized once, for the graph and for its reference.

A state holds tensors by canonical name. In a quantized one each product has two (`….packed`, `….scales`) in the place
of its `….weight`; norms and biases are as they were. A reference reads the same state through `Dequantized`, so it has
the very numbers that the graph has: what four bits lose is measured apart (`losses.py`), and no gate is wider for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from sttm_export.language.checkpoint import WEIGHT, is_product
from sttm_export.quantization.int4 import Int4, dequantize, largest_error, quantize, relative_error

# A sum of squares in float64 is exact to far less; the bound holds for each group by itself.
_SLACK = 1.0 + 1e-6


def is_quantized(state: Mapping[str, Tensor]) -> bool:
    """Whether products of a state have numbers and scales."""
    return any(name.endswith(".packed") for name in state)


def quantized(
    state: Mapping[str, Tensor],
    lost: Callable[[str, float], None] = lambda _name, _error: None,
    on_progress: Callable[[int, int], None] = lambda _done, _count: None,
) -> Mapping[str, Tensor]:
    """Return a state with quantized products; one that is quantized already as it is.

    Args:
        state: tensors by canonical name.
        lost: told the name of each weight and its relative error, where it is wanted: that takes a pass of its own.
        on_progress: called with (weights done, weights) after each.

    Raises:
        RuntimeError: a weight is further from its original than four bits can be; a fault of this program.
    """
    if is_quantized(state):
        return state
    made: dict[str, Tensor] = {}
    products = [name for name in state if is_product(name)]
    for name, tensor in state.items():
        if not is_product(name):
            made[name] = tensor
            continue
        stored = quantize(tensor)
        lost(name, _checked(name, tensor, stored))
        made |= {f"{name.removesuffix(WEIGHT)}.{kind}": part for kind, part in stored._asdict().items()}
        on_progress(products.index(name) + 1, len(products))
    return made


def _checked(name: str, weight: Tensor, stored: Int4) -> float:
    """Relative error of a weight, which has a limit that no rounding to the nearest number exceeds."""
    error, limit = relative_error(weight, stored), largest_error(weight)
    if error > limit * _SLACK:
        raise RuntimeError(f"{name} is wrong by {error:.3g} after quantization, where rounding explains {limit:.3g}.")
    return error


class Dequantized(Mapping[str, Tensor]):
    """A quantized state as a state of weights, which are made when they are asked for and not kept."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor by canonical name; a product's in float32."""
        stem = name.removesuffix(WEIGHT)
        if f"{stem}.packed" not in self._state:
            return self._state[name]
        return dequantize(self._state[f"{stem}.packed"], self._state[f"{stem}.scales"].float())

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the state."""
        for name in self._state:
            if name.endswith(".packed"):
                yield f"{name.removesuffix('.packed')}{WEIGHT}"
            elif not name.endswith(".scales"):
                yield name

    def __len__(self) -> int:
        """Return the number of tensors."""
        return sum(1 for _ in self)


def as_weights(state: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """A state of weights: itself, or a quantized one dequantized."""
    return Dequantized(state) if is_quantized(state) else state
