"""The table `architecture` of a Qwen2-VL model. No PyTorch here: model files are read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.records import Range, Size
from sttm_export.families.table import read_table, table_of


@dataclass(frozen=True)
class TowerSpec:
    """The vision tower, in the words of `vision_config` in a checkpoint's config.json."""

    embed_dim: Size
    depth: Annotated[int, Range(1, 1000)]
    num_heads: Annotated[int, Range(1, 4096)]
    patch_size: Annotated[int, Range(1, 16384)]
    temporal_patch_size: Annotated[int, Range(1, 64)]
    spatial_merge_size: Annotated[int, Range(1, 64)]
    mlp_ratio: Annotated[int, Range(1, 64)]

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.embed_dim // self.num_heads

    @property
    def inner_size(self) -> int:
        """Channels inside an MLP."""
        return self.embed_dim * self.mlp_ratio

    @property
    def patch_values(self) -> int:
        """Numbers that one patch is made of: RGB of every frame of a step."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @property
    def window_values(self) -> int:
        """Numbers that one token is made of: the patches of a merge window."""
        return self.embed_dim * self.spatial_merge_size**2


@dataclass(frozen=True)
class Table:
    """As it stands in a model file."""

    tower: TowerSpec


@dataclass(frozen=True)
class Qwen2VL:
    """All that the networks are built by."""

    tower: TowerSpec
    rows: int  # patches of one step, before they are merged into tokens
    columns: int
    channels: int  # width of the tokens

    @property
    def patches(self) -> int:
        """P, patches of a step."""
        return self.rows * self.columns


def qwen2_vl_of(model: ModelSpec) -> Qwen2VL:
    """Return the architecture of a model that has no faults."""
    table = table_of(Table, model, "Qwen2-VL")
    patch, pixels = table.tower.patch_size, model.pixels
    return Qwen2VL(table.tower, pixels.height // patch, pixels.width // patch, model.channels)


def faults_of(model: ModelSpec) -> list[str]:
    """What no Qwen2-VL model can be, as phrases."""
    faults: list[str] = []
    table = read_table(Table, model.architecture, faults)
    if faults:
        return faults
    tower, pixels, grid = table.tower, model.pixels, model.grid
    token = tower.patch_size * tower.spatial_merge_size
    made = f"{pixels.height // token}x{pixels.width // token}"
    checks = [
        (
            tower.embed_dim % (4 * tower.num_heads) == 0,
            "architecture.tower.embed_dim must be a multiple of 4 · num_heads, as rows and columns each turn pairs of "
            "a head's channels",
        ),
        (
            pixels.height % token == 0 and pixels.width % token == 0,
            f"pixels.height and pixels.width must be multiples of {token} (patch_size · spatial_merge_size), got "
            f"{pixels.height}x{pixels.width}",
        ),
        (
            made == f"{grid.height}x{grid.width}",
            f"{pixels.height}x{pixels.width} pixels make a grid of {made}, not {grid.height}x{grid.width}",
        ),
        (
            model.frames_per_step == tower.temporal_patch_size,
            f"frames_per_step must be temporal_patch_size, {tower.temporal_patch_size}",
        ),
    ]
    return [message for good, message in checks if not good]
