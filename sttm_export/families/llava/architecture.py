"""The table `architecture` of a LLaVA model. No PyTorch here: model files are read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from sttm_export.contracts.model import GridSpec, ModelSpec
from sttm_export.contracts.records import Range, Size
from sttm_export.families.table import read_table, table_of


@dataclass(frozen=True)
class TowerSpec:
    """A SigLIP vision tower; `layers` counts the layers that are used, not those of the checkpoint."""

    hub_id: str
    hidden_size: Size
    intermediate_size: Size
    layers: Annotated[int, Range(1, 1000)]
    heads: Annotated[int, Range(1, 4096)]
    patch_size: Annotated[int, Range(1, 16384)]
    layer_norm_eps: Annotated[float, Range(0.0, 1.0, above=True)]


@dataclass(frozen=True)
class Table:
    """As it stands in a model file."""

    projector: Literal["mlp2x_gelu"]
    tower: TowerSpec


@dataclass(frozen=True)
class Llava:
    """All that the networks are built by."""

    tower: TowerSpec
    image_size: int  # side of the square image in pixels
    grid: GridSpec
    channels: int  # width of the projected tokens

    @property
    def patches_per_side(self) -> int:
        """Side of the patch map; a remainder of the image is cut off, as the strided convolution does."""
        return self.image_size // self.tower.patch_size

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return self.patches_per_side**2


def llava_of(model: ModelSpec) -> Llava:
    """Return the architecture of a model that has no faults."""
    table = table_of(Table, model, "LLaVA")
    return Llava(table.tower, model.pixels.height, model.grid, model.channels)


def faults_of(model: ModelSpec) -> list[str]:
    """What no LLaVA model can be, as phrases."""
    faults: list[str] = []
    table = read_table(Table, model.architecture, faults)
    if faults:
        return faults
    tower, pixels = table.tower, model.pixels
    checks = [
        (tower.hidden_size % tower.heads == 0, "tower.hidden_size is not a multiple of tower.heads"),
        (pixels.height == pixels.width, "pixels.height and pixels.width differ; a SigLIP tower takes square frames"),
        (pixels.height >= tower.patch_size, "pixels.height is smaller than one patch"),
        (model.frames_per_step == 1, "frames_per_step must be 1"),
    ]
    return [message for good, message in checks if not good]
