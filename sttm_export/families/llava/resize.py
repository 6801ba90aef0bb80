"""Bilinear resize of a token map as two small constant matmuls: the same weights as `F.interpolate`.

`F.interpolate` becomes an ONNX Resize, which wants [B, C, H, W]: two transposes of the largest tensor of the
encoder's tail, and an operator whose coordinate modes each runtime reads for itself. Interpolation is linear and
separable, so [H', H] · [H, W·C] and then [W', W] · [W, C] give the same in the tokens' own layout with nothing but
reshapes and MatMul, at 0.02 % of the tower's arithmetic.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def bilinear_weights(source: int, target: int) -> NDArray[np.float32]:
    """Return the [target, source] matrix of `F.interpolate(mode="bilinear", align_corners=False, antialias=False)`."""
    centre = np.maximum((np.arange(target) + 0.5) * source / target - 0.5, 0.0)
    lower = np.floor(centre).astype(np.int64)
    upper = np.minimum(lower + 1, source - 1)
    weights = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(weights, (rows, lower), 1.0 - (centre - lower))
    np.add.at(weights, (rows, upper), centre - lower)
    return weights.astype(np.float32)


class BilinearResize(nn.Module):
    """Resize a row-major token map from side×side to height×width."""

    rows: Tensor
    columns: Tensor

    def __init__(self, side: int, height: int, width: int) -> None:
        super().__init__()
        # From NumPy, so that the constants hold values even where the module is built on the meta device.
        self.register_buffer("rows", torch.from_numpy(bilinear_weights(side, height)), persistent=False)
        self.register_buffer("columns", torch.from_numpy(bilinear_weights(side, width)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, side·side, C] to [B, height·width, C] in the buffers' dtype."""
        batch, _, channels = x.shape
        height, side = self.rows.shape
        width = self.columns.shape[0]
        x = torch.matmul(self.rows, x.reshape(batch, side, side * channels))
        x = torch.matmul(self.columns, x.reshape(batch * height, side, channels))
        return x.reshape(batch, height * width, channels)
