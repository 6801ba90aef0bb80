"""Weights of four bits: groups of 128 along a row, a scale for each, no zero point.

A row of a weight [N, K] holds what one output sums over, so a group lies along the sum. Its numbers are -8 to 7, its
values are numbers times the group's scale.

1. The scale of a group is the candidate with the least squared error: shares of largest / 7, the scale at which nothing
   is clipped. Smaller ones clip the largest weight and step finer for all others; -8 is used where it is nearest.
2. A scale has eight significant bits. Products with numbers of up to four bits are then exact in float16: what a
   runtime dequantizes is the same in float16 and float32, and a reference has the very weights that a graph has. It
   costs a two-hundredth of a step at the most, and the search counts it.
3. Every step is an elementwise operation of IEEE arithmetic, sums included (`_sum` adds in a fixed order), so that the
   same weights give the same bytes on every processor.

Sizes: four bits a weight and 16 for each 128 of them, 4.125 in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sttm_export.contracts.decoding import INT4_GROUP

LEAST, MOST = -8, 7
# Of largest / 7. Below 0.65 no group of 128 normal or heavier-tailed weights has its least error.
_SHARES = tuple((20 - step) / 20 for step in range(8))
# The smallest number of float16: a group of zeros has a scale all the same, which runtimes want positive.
_SMALLEST = 2.0**-24
# Weights at a time: few enough for a processor's cache, and for PyTorch to stay in one thread. More are shared out, and
# on a machine with other work the threads then wait for each other most of the time.
_CHUNK = (1 << 15) - 1


class Int4(NamedTuple):
    """A quantized weight [N, K]."""

    packed: Tensor  # [N, K/2] uint8, two numbers a byte, the first one in its lower half
    scales: Tensor  # [N, K/128] float16


def quantize(weight: Tensor) -> Int4:
    """Quantize a weight [N, K] of finite numbers; K must be a multiple of 128."""
    rows, width = weight.shape
    packed = torch.empty(rows, width // 2, dtype=torch.uint8)
    scales = torch.empty(rows, width // INT4_GROUP, dtype=torch.float16)
    for part in _parts(rows, width):
        groups = weight[part].float().reshape(-1, INT4_GROUP)
        best = _best_scales(groups)
        scales[part] = best.reshape(-1, width // INT4_GROUP).half()
        packed[part] = _pack(_numbers(groups, best).to(torch.int8).reshape(-1, width))
    return Int4(packed, scales)


def dequantize(packed: Tensor, scales: Tensor) -> Tensor:
    """Return the weight [N, K] in the dtype of the scales; it is the same in float16 and in float32 (rule 2)."""
    rows, width = packed.shape[0], 2 * packed.shape[1]
    weight = torch.empty(rows, width, dtype=scales.dtype)
    for part in _parts(rows, width):
        groups = unpack(packed[part]).reshape(-1, INT4_GROUP).float() * scales[part].float().reshape(-1, 1)
        weight[part] = groups.reshape(-1, width).to(scales.dtype)
    return weight


def unpack(packed: Tensor) -> Tensor:
    """Return the numbers [N, K] int8 of packed ones [N, K/2]."""
    halves = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)
    # Four bits with a sign: 8 to 15 are -8 to -1.
    return (halves ^ 8).to(torch.int8) - 8


def relative_error(weight: Tensor, made: Int4) -> float:
    """Norm of the difference over the norm of the weight; 0 for a weight of zeros."""
    wrong = whole = 0.0
    for part in _parts(*weight.shape):
        wanted = weight[part].double()
        wrong += float((dequantize(made.packed[part], made.scales[part]).double() - wanted).square().sum())
        whole += float(wanted.square().sum())
    return math.sqrt(wrong / whole) if whole else 0.0


def largest_error(weight: Tensor) -> float:
    """Relative error that no weight quantized as above exceeds.

    At the scale that clips nothing each number is wrong by half a step at the most, and the search takes no group that
    is worse. Uniform rounding is wrong by a step over sqrt(12), so a sound weight has three fifths of this or less.
    """
    bound = whole = 0.0
    for part in _parts(*weight.shape):
        groups = weight[part].float().reshape(-1, INT4_GROUP)
        peak = groups.abs().amax(1).double()
        scale = _rounded(peak.float()).double()
        # A scale among the smallest numbers of float16 is coarse, and may clip.
        bound += INT4_GROUP * float(torch.maximum(scale / 2, peak - MOST * scale).square().sum())
        whole += float(groups.double().square().sum())
    return math.sqrt(bound / whole) if whole else 0.0


def _best_scales(groups: Tensor) -> Tensor:
    """The scale [n, 1] of each group [n, 128] that has the least squared error; the largest of equal ones (rule 1)."""
    peaks = groups.abs().amax(1, keepdim=True)
    best = least = torch.empty(0)
    for share in _SHARES:
        scales = _rounded(peaks, share)
        errors = _sum((_numbers(groups, scales) * scales - groups).square_())
        if not best.numel():
            best, least = scales, errors
            continue
        better = errors < least
        best, least = torch.where(better, scales, best), torch.where(better, errors, least)
    return best


def _rounded(peaks: Tensor, share: float = 1.0) -> Tensor:
    """Eight significant bits (rule 2), as float16 holds them."""
    return (peaks * share / MOST).bfloat16().half().float().clamp_min_(_SMALLEST)


def _numbers(groups: Tensor, scales: Tensor) -> Tensor:
    return (groups / scales).round_().clamp_(LEAST, MOST)


def _sum(squares: Tensor) -> Tensor:
    """Sum over a group [n, 128] → [n, 1], halves onto halves: a library's sum would add as its processor likes."""
    while squares.shape[1] > 1:
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    return squares


def _pack(numbers: Tensor) -> Tensor:
    """[N, K] int8 → [N, K/2] uint8."""
    halves = (numbers & 15).to(torch.uint8)
    return halves[:, 0::2] | (halves[:, 1::2] << 4)


def _parts(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _CHUNK // width)
    return (slice(start, start + step) for start in range(0, rows, step))
