"""How widely a transformer's random parameters are spread, so that a random model behaves much as a trained one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType

from sttm_export.weights.layout import Shape

_NO_TABLES: Mapping[str, float] = MappingProxyType({})


def spread(
    name: str,
    shape: Shape,
    depth: int,
    sharpened: Collection[str],
    damped: Collection[str],
    tables: Mapping[str, float] = _NO_TABLES,
) -> tuple[float, float]:
    """Return mean and standard deviation of a random parameter; names are told by what they contain.

    The last layer of a residual branch is damped by depth, so that the stream keeps its size through 80 layers.
    Attention is sharpened: a random tower that averages its patches makes all tokens alike, and then every video merges
    to nothing; a decoder that averages its rows gives much the same logits for any prompt. No bias is zero: the ONNX
    exporter merges equal initializers, which hides mix-ups of parameters.

    Args:
        name: canonical.
        shape: outputs first.
        depth: layers, each with two branches.
        sharpened: parameters that make queries and keys.
        damped: parameters that end a branch.
        tables: deviations of parameters that rows are looked up in.
    """
    if "norm" in name or "ln_q" in name:
        return (1.0, 0.1) if name.endswith("weight") else (0.0, 0.1)
    if name.endswith("bias"):
        return 0.0, 0.02
    for table, deviation in tables.items():
        if table in name:
            return 0.0, deviation
    scale = 1.0 / math.sqrt(math.prod(shape[1:]))
    if any(part in name for part in sharpened):
        scale *= 2.0
    if any(part in name for part in damped):
        scale /= math.sqrt(2.0 * depth)
    return 0.0, scale
