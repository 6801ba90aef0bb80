"""Sorting and segment sums from static-shape ops that every TensorRT takes: no sort, CumSum, TopK, scatter-add.

Counts are held in float32, exact below 2**24. Only small whole numbers (<= 2048) enter a MatMul here, so that an engine
built with TF32 by mistake still computes every index exactly.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DIGIT_BITS = 4
"""Digits of 4 bits: the work is 2**bits a pass, so that 4 passes of 4 cost two thirds of 3 passes of 5."""

WINDOW = 16
"""Rows that one one-hot MatMul sums: its cost grows with the window, and 16 are as fast as copying the rows."""

BLOCK = 16
"""Windows between which sums are carried over at once; what is left is a MatMul of [M/256, M/256]."""


def strictly_lower(size: int) -> Tensor:
    """[size, size] float32, 1 where column < row."""
    # From NumPy, so that tracing sees a constant and not the ops that made it.
    return torch.from_numpy(np.tri(size, k=-1, dtype=np.float32))


def exclusive_prefix(values: Tensor) -> Tensor:
    """Exclusive prefix sum over the last two dimensions, row-major.

    Args:
        values: [..., M, B] float32 whole numbers <= 2048.

    Returns:
        The same shape. Two levels (inside rows, then over rows) keep the cost at T·N·B instead of (T·N)².
    """
    rows, columns = values.shape[-2:]
    inside = values @ strictly_lower(columns).T
    # Row totals can pass 2048, hence multiply and sum, not a MatMul.
    before = (values.sum(-1).unsqueeze(-2) * strictly_lower(rows)).sum(-1)
    return inside + before.unsqueeze(-1)


def stable_order(keys: Tensor, bits: int) -> Tensor:
    """Order of a stable ascending sort, by counting sort on digits.

    Args:
        keys: [M, B] float32 whole numbers in [0, 2**bits).
        bits: of the largest key.

    Returns:
        [M·B] int32: for each sorted position the row-major index of its key.
    """
    shape, flat = keys.shape, keys.flatten()
    order = torch.arange(flat.shape[0], dtype=torch.int32)
    digits = torch.arange(2**DIGIT_BITS, dtype=torch.float32)[:, None, None]
    for shift in range(0, bits, DIGIT_BITS):
        high = torch.floor(flat.gather(0, order.long()) * 2.0**-shift)
        digit = (high - 2**DIGIT_BITS * torch.floor(high * 2.0**-DIGIT_BITS)).view(shape)
        hit = (digit[None] == digits).float()
        first = (hit.sum((1, 2))[None] * strictly_lower(2**DIGIT_BITS)).sum(-1)
        position = (hit * (exclusive_prefix(hit) + first[:, None, None])).sum(0)
        order = torch.zeros_like(order).scatter(0, position.flatten().long(), order)
    return order


def segment_bounds(slots: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """First and last position of each slot in a sorted list.

    Args:
        slots: [M] int32, ascending, in [0, count]; `count` marks entries of no slot.
        count: K.

    Returns:
        first, last: [K] int32; both 0 for a slot that does not occur.
    """
    size = slots.shape[0]
    position = torch.arange(size, dtype=torch.int32)
    changes = slots[1:] != slots[:-1]
    edge = torch.ones(1, dtype=torch.bool)
    # TensorRT's parser refuses a scatter with more indices than places.
    places = torch.zeros(max(count + 1, size), dtype=torch.int32)
    bounds = []
    for marks in (torch.cat([edge, changes]), torch.cat([changes, edge])):
        # Entries that are no bound go to the spare place K, where it does not matter which one wins.
        place = torch.where(marks, slots, count).to(torch.int64)
        bounds.append(places.scatter(0, place, position)[:count])
    return bounds[0], bounds[1]


def padded_rows(rows: int) -> int:
    """Rows that `segment_sum` takes for so many: whole blocks, of which the last window is spare."""
    return -(-(rows + WINDOW) // (WINDOW * BLOCK)) * WINDOW * BLOCK


def segment_sum(rows: Tensor, weights: Tensor, slots: Tensor, bounds: tuple[Tensor, Tensor], used: Tensor) -> Tensor:
    """Weighted sum of the rows of each slot, from rows sorted by slot.

    A one-hot MatMul inside windows of B rows sums what lies in one window; what a segment left in earlier windows is
    carried over. Linear in M but for [M/256, M/256]; deterministic; no row is read twice.

    Args:
        rows: [M, C] float32, sorted by slot; M as `padded_rows` gives it, zeros in the last window.
        weights: [M] float32.
        slots: [M] int32, ascending; entries of no slot hold K, those of the last window among them.
        bounds: [K] int32 each, first and last position of each slot.
        used: [K] bool, which slots occur.

    Returns:
        [K, C] float32; zeros where a slot does not occur.
    """
    first, last = bounds
    count, channels = last.shape[0], rows.shape[1]
    windowed = slots.view(-1, WINDOW)
    windows = windowed.shape[0]
    first_slot, last_slot = windowed[:, 0], windowed[:, -1]
    local = windowed - first_slot[:, None]
    belongs = (local[:, None] == torch.arange(WINDOW, dtype=torch.int32)[:, None]) & (windowed < count)[:, None]
    one_hot = torch.where(belongs, weights.view(-1, 1, WINDOW), 0.0)
    partial = (one_hot @ rows.view(windows, WINDOW, channels)).view(-1, channels)

    starts = torch.arange(0, windows * WINDOW, WINDOW, dtype=torch.int32)
    # The step from the last slot to the entries of no slot can be wider than a window; nothing is carried from there.
    tails = partial.index_select(0, starts + (last_slot - first_slot).clamp(max=WINDOW - 1))
    carried = torch.cat([_carry_over(tails, first_slot, last_slot), torch.zeros(1, channels)])

    home = torch.div(last, WINDOW, rounding_mode="floor").to(torch.int32)
    row = torch.arange(count, dtype=torch.int32) - first_slot.gather(0, home.long())
    # Slots that do not occur read zeros. A Where on [K, C] instead would be three passes in ONNX Runtime.
    place = torch.where(used, home * WINDOW + row, rows.shape[0] - 1)
    # Only what began in an earlier window has something to carry; the others stay clear of NaN that passes there.
    source = torch.where(first < home * WINDOW, home, windows)
    return partial.index_select(0, place) + carried.index_select(0, source)


def _carry_over(tails: Tensor, first_slot: Tensor, last_slot: Tensor) -> Tensor:
    """[W, C]: for the first slot of each window, what earlier windows hold of it; inside blocks, then over blocks.

    Args:
        tails: [W, C] float32, sum of the last slot of each window inside that window; W a multiple of `BLOCK`.
        first_slot: [W] int32.
        last_slot: [W] int32.
    """
    first, last = first_slot.view(-1, BLOCK), last_slot.view(-1, BLOCK)
    blocks = tails.view(-1, BLOCK, tails.shape[1])
    of_block = ((last == last[:, -1:]).float()[:, None] @ blocks).squeeze(1)
    earlier = ((last[:, -1] == first[:, :1]) & (strictly_lower(first.shape[0]) > 0)).float()
    into_block = (earlier @ of_block).unsqueeze(1)
    inside = (last[:, None] == first[:, :, None]) & (strictly_lower(BLOCK) > 0)
    masks = torch.cat([inside, (first == first[:, :1])[:, :, None]], 2).float()
    return (masks @ torch.cat([blocks, into_block], 1)).view(tails.shape)
