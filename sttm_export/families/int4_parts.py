"""What is different about a part of a language model whose weights have four bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sttm_export.contracts.decoding import Span
from sttm_export.contracts.losses import Losses, WeightLoss
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.modules import check_fits
from sttm_export.families.part import Array, Arrays, Progress, Quantizing, State
from sttm_export.language.checkpoint import is_product
from sttm_export.language.decoder import Product, plain
from sttm_export.language.losses import compare_logits, follow
from sttm_export.language.positions import Ints
from sttm_export.language.quantized import as_weights, quantized
from sttm_export.language.rotary import rotary_tables
from sttm_export.quantization.int4_product import Int4Linear

Floats = NDArray[np.float32]
Given = Callable[[Arrays], tuple[Floats, Ints]]
"""Rows that go into a group, [S, C], and their positions, [P, S]."""
# The first rows of the clip in the exact stream and in that of the quantized layers, from part to part.
_EXACT, _STORED = "rows_exact", "rows_int4"
_LOST: Arrays = {_EXACT: np.empty((0, 0), np.float32), _STORED: np.empty((0, 0), np.float32)}
# What loses more than that is named: normally distributed weights lose 0.10, those of a Laplace distribution 0.14.
_MUCH = 0.2


def product_of(recipe: Recipe) -> Product:
    """What makes the products of the recipe's decoder."""
    return Int4Linear if recipe.has_int4 else plain


def stored(recipe: Recipe, state: State) -> State:
    """Weights as the graph has them: as they are, or quantized if they are not yet."""
    return _quantized(state)[0] if recipe.has_int4 else state


def reference_weights(recipe: Recipe, state: State) -> Mapping[str, Any]:
    """The same numbers for a reference."""
    return as_weights(stored(recipe, state))


def group_quantizing(recipe: Recipe, span: Span, given: Given) -> Quantizing | None:
    """Of a group of layers; None where weights are floats."""
    return Quantizing(_apply, partial(_measure_group, recipe, span, given)) if recipe.has_int4 else None


def head_quantizing(recipe: Recipe) -> Quantizing | None:
    """Of the head; None where weights are floats."""
    return Quantizing(_apply, partial(_measure_head, recipe)) if recipe.has_int4 else None


def heavy_weights(losses: Losses) -> list[str]:
    """A finding for each weight that loses more than rounding of common distributions does."""
    return [
        f"{row.name} loses {row.relative:.2g} of its size to INT4, where normally distributed weights lose 0.10: its "
        "groups of 128 have outliers"
        for row in losses.weights
        if row.relative > _MUCH
    ]


def _quantized(state: State, progress: Progress = lambda _done, _count: None) -> tuple[State, list[WeightLoss]]:
    for name in filter(is_product, state):
        check_fits(name, state[name], torch.float16)
    losses: list[WeightLoss] = []
    made = quantized(state, lambda name, error: losses.append(WeightLoss(name, float(f"{error:.4g}"))), progress)
    return made, losses


def _apply(state: State, progress: Progress) -> tuple[State, Losses]:
    made, losses = _quantized(state, progress)
    return made, Losses(weights=tuple(losses))


def _measure_group(
    recipe: Recipe, span: Span, given: Given, original: State, made: State, clip: Arrays, progress: Progress
) -> tuple[Losses, Arrays]:
    """Follow the first rows; where tokens merge, both streams begin anew with what was merged."""
    hidden, places = given(clip)
    chunk = recipe.group_graph(span).row_counts[0]
    first = hidden[:chunk], hidden[:chunk]
    rows = first if span[0] in (0, recipe.merge_layer) else _rows(clip)
    if not _are_finite(rows):
        return Losses(), _LOST
    tables = rotary_tables(recipe.decoder, places[:, : len(rows[0])])
    layers, (exact, few) = follow(recipe.decoder, (original, made), range(*span), rows, tables, progress)
    if not _are_finite((exact, few)):
        return Losses(), _LOST
    return Losses(layers=tuple(layers)), {_EXACT: exact, _STORED: few}


def _measure_head(
    recipe: Recipe, original: State, made: State, clip: Arrays, progress: Progress
) -> tuple[Losses, dict[str, Array]]:
    rows = _rows(clip)
    if not _are_finite(rows):
        return Losses(), {}
    logits = compare_logits(recipe.decoder, (original, made), rows)
    progress(1, 1)
    return Losses(logits=logits), {}


def _rows(clip: Arrays) -> tuple[Floats, ...]:
    """Both streams as the part before has left them; nothing where it had none that are finite."""
    return tuple(cast("Floats", clip[name]) for name in (_EXACT, _STORED) if name in clip)


def _are_finite(rows: tuple[Floats, ...]) -> bool:
    """Of others there is nothing to measure, and the examination names the first of them."""
    return bool(rows) and all(len(stream) and bool(np.isfinite(stream).all()) for stream in rows)
