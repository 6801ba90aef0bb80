"""2-D rotary positions of Qwen2-VL's tower (arXiv 2409.12191): rows turn one half of the pairs, columns the other."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BASE = 10_000.0


def rotary_tables(rows: int, columns: int, head_dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return cos and sin of every patch's angles, float32 [rows·columns, head_dim/2], patches row-major.

    Made in float64 and rounded once, so that the same bytes are exported on every machine; the graph holds no Cos or
    Sin, of which each runtime has its own. Channel k turns with channel k + head_dim/2.
    """
    per_axis = head_dim // 4
    frequencies = BASE ** (-np.arange(per_axis) / per_axis)
    row, column = (axis.reshape(-1, 1) for axis in np.mgrid[:rows, :columns])
    angles = np.concatenate([row * frequencies, column * frequencies], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (k, k + d/2) of x [..., P, d] by the tables [P, d/2]; all of it float32."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
