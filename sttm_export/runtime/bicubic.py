"""Pillow's bicubic resize of 8-bit RGB images in NumPy alone, equal to Pillow bit by bit; for machines without Pillow.

What is computed: the kernel is stretched when an image shrinks (it antialiases), its weights are rounded to multiples
of 2^-22, one pass makes the columns and then one the rows, and each rounds to a whole number in [0, 255].

Weights times pixels are integers far below 2^53, so products of matrices in float64 give them exactly, in whatever
order a BLAS adds up. A matrix holds the few outputs that share most of their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_A = -0.5  # Keys' parameter
_RADIUS = 2.0  # of the kernel, in pixels of the output where an image shrinks, else of the input
_ONE = 1 << 22  # a weight of 1
_TOGETHER = 8  # outputs of one matrix; measured: more of them multiply more zeros, fewer call BLAS more often


def resize_bicubic(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resize as `Image.resize((width, height), Image.BICUBIC)` does, the columns first as in every Pillow before 13.

    Args:
        image: [h, w, c], no side of it 0.
        width: of the result, at least 1.
        height: of the result, at least 1.

    Returns:
        [height, width, c], a new array.
    """
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    # A side that stays is not passed over; its weights would be 1 and change nothing.
    if planes.shape[2] != width:
        planes = _columns(planes, width)
    if planes.shape[1] != height:
        planes = _rows(planes, height)
    return planes.transpose(1, 2, 0).copy()


class _Block(NamedTuple):
    """Neighbouring outputs and the inputs that they are made of."""

    outputs: slice
    inputs: slice
    weights: NDArray[np.float64]  # [outputs, inputs], whole numbers; `_ONE` stands for 1


def _columns(planes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    result = np.empty((*planes.shape[:2], width), np.uint8)
    for block in _blocks(planes.shape[2], width):
        result[:, :, block.outputs] = _rounded(planes[:, :, block.inputs].astype(np.float64) @ block.weights.T)
    return result


def _rows(planes: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    result = np.empty((planes.shape[0], height, planes.shape[2]), np.uint8)
    for block in _blocks(planes.shape[1], height):
        result[:, block.outputs] = _rounded(block.weights @ planes[:, block.inputs].astype(np.float64))
    return result


def _rounded(sums: NDArray[np.float64]) -> NDArray[np.int32]:
    """Sums of weights times pixels → pixels; halves go up. The sums fit int32: weights add up to 1, sizes to 1.3."""
    values = (sums + _ONE // 2).astype(np.int32)
    values //= _ONE
    return np.minimum(np.maximum(values, 0), 255)


@lru_cache(maxsize=8)
def _blocks(size: int, new_size: int) -> tuple[_Block, ...]:
    """Return the matrices that make `new_size` pixels of `size`; a stream asks for the same ones with each frame."""
    return tuple(_made_blocks(size, new_size))


def _made_blocks(size: int, new_size: int) -> Iterator[_Block]:
    starts, weights = _weights(size, new_size)
    taps = weights.shape[1]
    for first in range(0, new_size, _TOGETHER):
        last = min(first + _TOGETHER, new_size)
        low, high = int(starts[first]), min(int(starts[last - 1]) + taps, size)
        matrix = np.zeros((last - first, high - low))
        for output in range(first, last):
            # Weights behind the last input are zeros.
            offset = int(starts[output]) - low
            count = min(taps, high - low - offset)
            matrix[output - first, offset : offset + count] = weights[output, :count]
        yield _Block(slice(first, last), slice(low, high), matrix)


def _weights(size: int, new_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return [n], the first input of each output, and [n, taps], the weights from there on, with zeros behind them."""
    scale = size / new_size
    stretch = max(scale, 1.0)
    centers = (np.arange(new_size) + 0.5) * scale
    # Rounded towards zero, and only then held to the image.
    starts = np.maximum((centers - _RADIUS * stretch + 0.5).astype(np.int64), 0)
    ends = np.minimum((centers + _RADIUS * stretch + 0.5).astype(np.int64), size)
    offsets = np.arange(int((ends - starts).max()))
    values = _kernel((offsets + starts[:, None] - centers[:, None] + 0.5) * (1.0 / stretch))
    values[starts[:, None] + offsets >= ends[:, None]] = 0.0
    total = np.zeros(new_size)
    for tap in range(len(offsets)):  # one after the other: NumPy's own sum adds in another order
        total += values[:, tap]
    values /= total[:, None]
    return starts, (values * _ONE + np.where(values < 0, -0.5, 0.5)).astype(np.int64)


def _kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution: one polynomial up to 1, another up to 2, zero beyond."""
    x = np.abs(x)
    inner = ((_A + 2.0) * x - (_A + 3.0)) * x * x + 1.0
    outer = (((x - 5.0) * x + 8.0) * x - 4.0) * _A
    return np.where(x < 1.0, inner, np.where(x < _RADIUS, outer, 0.0))
