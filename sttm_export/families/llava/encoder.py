"""Frames to projected tokens: the module that is exported."""

from __future__ import annotations

from torch import Tensor, nn

from sttm_export.families.llava.architecture import Llava
from sttm_export.families.llava.projector import Projector
from sttm_export.families.llava.siglip import SiglipTower


class VisionEncoder(nn.Module):
    """Tower, projector and resize of one model; every shape is static but the batch."""

    def __init__(self, llava: Llava) -> None:
        super().__init__()
        self.tower = SiglipTower(llava)
        self.projector = Projector(llava)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S] to features [B, H·W, C], row-major, both in the module's dtype."""
        return self.projector(self.tower(pixel_values))  # type: ignore[no-any-return]
