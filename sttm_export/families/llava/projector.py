"""LLaVA's `mlp2x_gelu` projector with the resize to the token grid inside it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.families.llava.architecture import Llava
from sttm_export.families.llava.resize import BilinearResize


class Projector(nn.Module):
    """Linear, GELU (erf), resize, Linear.

    The published order is project, then resize. The resize is linear and its weights sum to one, so it commutes with
    the last Linear, bias included (not with the GELU). Resizing before it runs that Linear on H·W tokens instead of all
    patches: a quarter of its work at 27×27 → 14×14, 2 % of a 7B encoder and 9 % of a 72B one. A grid with more cells
    than patches is resized last.
    """

    def __init__(self, llava: Llava) -> None:
        super().__init__()
        side, grid, output = llava.patches_per_side, llava.grid, llava.channels
        self.fc1 = nn.Linear(llava.tower.hidden_size, output)
        self.fc2 = nn.Linear(output, output)
        same = (grid.height, grid.width) == (side, side)
        self.resize: nn.Module = nn.Identity() if same else BilinearResize(side, grid.height, grid.width)
        self.shrinks = grid.cells < side * side

    def forward(self, patches: Tensor) -> Tensor:
        """Map the tower's patches [B, P, hidden] to features [B, H·W, C]."""
        active = F.gelu(self.fc1(patches).float()).to(patches.dtype)
        if self.shrinks:
            return self.fc2(self.resize(active))  # type: ignore[no-any-return]
        return self.resize(self.fc2(active))  # type: ignore[no-any-return]
