"""Sorting and segment sums from static-shape ops that every TensorRT takes: no sort, CumSum, TopK, scatter-add.

Counts are held in float32, exact below 2**24. Only small whole numbers (<= 2048) enter a MatMul here, so that an engine
built with TF32 by mistake still computes every index exactly.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROW = 128
"""Prefix sums work inside rows of so many numbers, at a cost of M · ROW, then over the rows, at (M / ROW)²."""

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


def in_rows(values: Tensor, filling: float) -> Tensor:
    """[M] → [M / ROW, ROW], lengthened to whole rows."""
    return F.pad(values, (0, -values.shape[0] % ROW), value=filling).view(-1, ROW)


def exclusive_sum(values: Tensor) -> Tensor:
    """[M] exclusive prefix sums of [M] float32 whole numbers <= 2048."""
    rows = in_rows(values, 0.0)
    inside = rows @ strictly_lower(ROW).T
    # Totals of rows can pass 2048, hence multiply and sum, not a MatMul.
    before = (strictly_lower(rows.shape[0]) * rows.sum(1)).sum(1, keepdim=True)
    return (inside + before).flatten()[: values.shape[0]]


def stable_order(keys: Tensor, bits: int) -> Tensor:
    """Order of a stable ascending sort, by counting sort on digits (rule 9.1).

    Args:
        keys: [M] float32 whole numbers in [0, 2**bits).
        bits: of the largest key.

    Returns:
        [M] int32: for each sorted position the index of its key.
    """
    radix, passes = 2**DIGIT_BITS, -(-bits // DIGIT_BITS)
    # What fills the last row stays last: it has the digits of the greatest float32 below 2**28, or of 15.9999995.
    rows = in_rows(keys, float(np.nextafter(np.float32(radix**passes), np.float32(0))))
    shift = torch.from_numpy(np.float32(radix) ** -np.arange(passes, dtype=np.float32)[:, None])
    high = torch.floor(rows.flatten() * shift)
    digits = high - radix * torch.floor(high / radix)  # [passes, M]
    values = torch.arange(radix, dtype=torch.float32)[:, None, None]
    order = torch.arange(rows.numel(), dtype=torch.int32)
    for number in range(passes):
        digit = digits[number].gather(0, order.long())
        hit = (digit.view(rows.shape) == values).float()  # [radix, M / ROW, ROW]
        inside = hit @ strictly_lower(ROW).T
        totals = hit.sum(2)  # [radix, M / ROW]
        smaller = (strictly_lower(radix) @ totals).sum(1, keepdim=True)  # [radix, 1]
        before = smaller + totals @ strictly_lower(rows.shape[0]).T
        place = (hit * (inside + before[:, :, None])).sum(0)
        order = torch.zeros_like(order).scatter(0, place.flatten().long(), order)
    return order[: keys.shape[0]]


def segment_bounds(slots: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where each slot begins and ends in a sorted list.

    Args:
        slots: [M] int32, ascending, in [0, count]; `count` marks entries of no slot, of which there is one at least.
        count: K.

    Returns:
        first, end: [K] int32; equal for a slot that does not occur.
    """
    size = slots.shape[0]
    begins = torch.cat([torch.ones(1, dtype=torch.bool), slots[1:] != slots[:-1]])
    # Entries that begin nothing go to the spare place K + 1, where it does not matter which one wins.
    place = torch.where(begins, slots, count + 1).to(torch.int64)
    # Slots that do not occur begin where the entries of no slot do. TensorRT's parser refuses a scatter with more
    # indices than places.
    behind = (slots < count).float().sum().to(torch.int32).expand(max(size, count + 2))
    bounds = behind.scatter(0, place, torch.arange(size, dtype=torch.int32))
    return bounds[:count], bounds[1 : count + 1]


def padded_rows(rows: int) -> int:
    """Rows that `segment_sum` takes for so many: whole blocks, of which the last window is spare."""
    return -(-(rows + WINDOW) // (WINDOW * BLOCK)) * WINDOW * BLOCK


def segment_sum(rows: Tensor, weights: Tensor, slots: Tensor, first: Tensor, end: Tensor) -> Tensor:
    """Weighted sum of the rows of each slot, from rows sorted by slot (rule 9.2). Reads 1, writes 1, places K.

    A one-hot MatMul inside windows of B rows sums what lies in one window; what a segment left in earlier windows is
    carried over. Linear in M but for [M/256, M/256]; deterministic; no row is read twice. With windows of four rows:

        position    0    1    2    3  |  4    5    6    7
        slot        0    0    1    2  |  2    2    3    K      K: of no slot
        partial     s0   s1   s2   0  |  s2   s3   0    0      sums inside windows, one a row, in the order of slots
        tails                 s2      |       s3               the last slot of each window: what the next may need
        carried           0           |  s2 of window 0        for the first slot of each window, from all before it

        slot 0, 1 = partial[0], partial[1];  slot 2 = partial[4] + carried;  slot 3 = partial[5]

    A slot is complete in the window of its last row, its home. Only the first slot of a window can have begun earlier,
    so the sums carried over are few, one a window.

    Args:
        rows: [M, C] float32, sorted by slot; M as `padded_rows` gives it, zeros in the last window.
        weights: [M] float32.
        slots: [M] int32, ascending; entries of no slot hold K, those of the last window among them.
        first: [K] int32, position where each slot begins.
        end: [K] int32, where it ends; `first` for a slot that does not occur.

    Returns:
        [K, C] float32; zeros where a slot does not occur.
    """
    size, channels = rows.shape
    count = first.shape[0]
    windowed = slots.view(-1, WINDOW)  # [M/B, B]
    first_slot, last_slot = windowed[:, 0], windowed[:, -1]
    local = windowed - first_slot[:, None]
    belongs = (local[:, None] == torch.arange(WINDOW, dtype=torch.int32)[:, None]) & (windowed < count)[:, None]
    one_hot = torch.where(belongs, weights.view(-1, 1, WINDOW), 0.0)  # [M/B, B, B]
    partial = (one_hot @ rows.view(-1, WINDOW, channels)).view(size, channels)

    positions = np.arange(size, dtype=np.int32)
    home = torch.from_numpy(positions // WINDOW).gather(0, (end - 1).clamp(min=0).long())  # [K]
    place = home * WINDOW + torch.arange(count, dtype=torch.int32) - first_slot.gather(0, home.long())
    # The step from the last slot to the entries of no slot can be wider than a window; nothing is carried from there.
    tail = torch.from_numpy(positions[::WINDOW]) + (last_slot - first_slot).clamp(max=WINDOW - 1)
    carried = _carry_over(partial.index_select(0, tail), first_slot, last_slot)  # [M/B, C]
    # What did not begin in an earlier window, and slots that do not occur, read zeros: so they stay clear of NaN that
    # passes there, and a Where on [K, C] would be three passes in ONNX Runtime. A ScatterND of the few sums that are
    # carried reads less, and TensorRT before 10.9 does not import it.
    carried = torch.cat([carried, torch.zeros(1, channels)])
    earlier = torch.where(first < home * WINDOW, home, len(carried) - 1)
    place = torch.where(end > first, place, size - 1)
    return partial.index_select(0, place) + carried.index_select(0, earlier)


def _carry_over(tails: Tensor, first_slot: Tensor, last_slot: Tensor) -> Tensor:
    """[W, C]: for the first slot of each window, what earlier windows hold of it; inside blocks, then over blocks.

    Args:
        tails: [W, C] float32, sum of the last slot of each window inside that window; W a multiple of `BLOCK`.
        first_slot: [W] int32.
        last_slot: [W] int32.
    """
    first, last = first_slot.view(-1, BLOCK), last_slot.view(-1, BLOCK)
    blocks = tails.view(-1, BLOCK, tails.shape[1])
    of_block = ((last == last[:, -1:]).float()[:, None] @ blocks).squeeze(1)  # [W/B, C], of the last slot of a block
    earlier = ((last[:, -1] == first[:, :1]) & (strictly_lower(first.shape[0]) > 0)).float()  # [W/B, W/B]
    into_block = (earlier @ of_block).unsqueeze(1)  # [W/B, 1, C], of the first slot of a block
    inside = (last[:, None] == first[:, :, None]) & (strictly_lower(BLOCK) > 0)  # [W/B, B, B]
    masks = torch.cat([inside, (first == first[:, :1])[:, :, None]], 2).float()
    return (masks @ torch.cat([blocks, into_block], 1)).view(tails.shape)
