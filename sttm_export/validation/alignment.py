"""Pairing the tokens of two merge results: after one flipped decision every later slot has moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.validation.outputs import TokenTable, read_tokens

Array = NDArray[np.generic]


@dataclass(frozen=True)
class AlignedTokens:
    """Rows that stand for the same cells on both sides; `left_out` counts candidate tokens without such a partner."""

    actual: NDArray[np.floating]
    expected: NDArray[np.floating]
    left_out: int


def aligned_tokens(
    candidate: Mapping[str, Array],
    reference: Mapping[str, Array],
    num_frames: int,
    width: int,
    excused_cells: NDArray[np.bool_] | None = None,
) -> AlignedTokens:
    """Pair tokens of equal representative, box and member cells.

    Args:
        candidate: outputs of the token-merger graph.
        reference: outputs it is compared with.
        num_frames: frames that count.
        width: W of the grid.
        excused_cells: [T', N] bool, true where a tie was turned over: a token there may hold other nodes of the same
            cells (one large node, or its four children), so that its mean differs although its cells do not.
    """
    mine, theirs = (read_tokens(outputs, num_frames, width) for outputs in (candidate, reference))
    same = mine.keys == theirs.keys
    if excused_cells is not None:
        same &= ~excused_cells
    whole = _whole(mine, same)
    partner = np.searchsorted(theirs.names, mine.names[whole])
    keep = _whole(theirs, same)[partner]
    rows = np.flatnonzero(whole)[keep]
    return AlignedTokens(mine.tokens[rows], theirs.tokens[partner[keep]], len(mine.names) - len(rows))


def _whole(table: TokenTable, same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[n] bool: tokens all of whose cells are in agreement. A token with none at all cannot be paired."""
    agreeing = np.bincount(table.assignment[same], minlength=len(table.names))
    whole: NDArray[np.bool_] = (agreeing == table.patches) & (table.patches > 0)
    return whole
