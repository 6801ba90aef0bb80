"""What weights of four bits lose: `transformers`' own layers with the original weights beside the stored ones.

Both run in float32, one layer in memory at a time. Two streams are followed from the same rows: one through the
original layers, one through the quantized ones, so that errors add up as they do in the model; and each quantized layer
also gets the exact stream, which tells layers from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.losses import LayerLoss, LogitsLoss
from sttm_export.language.quantized import as_weights
from sttm_export.language.reference import layers_of, reference_head, through

Floats = NDArray[np.float32]
State = Mapping[str, Tensor]
# Rows whose differences are in memory at once.
_ROWS = 32


def follow(
    spec: DecoderSpec,
    states: tuple[State, State],
    layers: range,
    rows: tuple[Floats, ...],
    tables: tuple[Floats, Floats],
    on_progress: Callable[[int, int], None] = lambda _done, _count: None,
) -> tuple[list[LayerLoss], tuple[Floats, Floats]]:
    """Follow the first rows of a prompt through some layers.

    Args:
        spec: of the whole decoder.
        states: with the original weights and with quantized ones.
        layers: which.
        rows: [S, C], the exact stream before the first of them, and that of the quantized layers before it.
        tables: cosines and sines of the rows, [S, D] each.
        on_progress: called with (layers done, layers) after each.

    Returns:
        The loss of each layer, and both streams behind the last.
    """
    turned = (torch.from_numpy(tables[0]), torch.from_numpy(tables[1]))
    exact, stored = (torch.from_numpy(row) for row in rows)
    losses = []
    for layer in layers:
        whole, few = (layers_of(spec, as_weights(state), layer, layer + 1)[0] for state in states)
        before, same = exact, torch.equal(exact, stored)
        exact, alone = _step(whole, before, turned), _step(few, before, turned)
        stored = alone if same else _step(few, stored, turned)
        losses.append(LayerLoss(layer, _relative(alone - exact, exact - before), _relative(stored - exact, exact)))
        on_progress(layer - layers.start + 1, len(layers))
    return losses, (exact.numpy(), stored.numpy())


def compare_logits(spec: DecoderSpec, states: tuple[State, State], rows: tuple[Floats, ...]) -> LogitsLoss:
    """Compare the logits of rows behind the last layer; see `follow`. One head in memory at a time."""
    exact, stored = (torch.from_numpy(row) for row in rows)
    (wanted,) = _logits(spec, states[0], exact)
    alone, made = _logits(spec, states[1], exact, stored)
    totals, same = np.zeros(4), int((wanted.argmax(1) == made.argmax(1)).sum())
    for part in (slice(start, start + _ROWS) for start in range(0, len(wanted), _ROWS)):
        cosines = torch.cosine_similarity(wanted[part], made[part]).double()
        gaps = (alone[part] - wanted[part]).square(), (made[part] - wanted[part]).square()
        totals += [float(total.double().sum()) for total in (*gaps, wanted[part].square(), cosines)]
    head, relative = (_figure(np.sqrt(wrong / totals[2])) for wrong in totals[:2])
    return LogitsLoss(len(wanted), head, relative, _figure(totals[3] / len(wanted)), same)


def _logits(spec: DecoderSpec, state: State, *rows: Tensor) -> list[Tensor]:
    head = reference_head(spec, as_weights(state))
    return [head(row) for row in rows]


def _step(layer: nn.Module, rows: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    from transformers.cache_utils import DynamicCache

    with torch.no_grad():
        return through(layer, rows, tables, DynamicCache(), 0)


def _relative(wrong: Tensor, whole: Tensor) -> float:
    length = float(whole.double().norm())
    return _figure(float(wrong.double().norm()) / length if length else 0.0)


def _figure(value: float) -> float:
    """Four digits: more would be of the processor, not of the weights."""
    return float(f"{value:.4g}")
