"""What a model is: tower, projector, grid, frame sampling, published thresholds. Read from `models/*.toml`."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sttm_export.contracts.data import data_directory, read_toml
from sttm_export.contracts.records import Cosine, Range, Share, Size, read_record
from sttm_export.errors import UserError, did_you_mean

MAX_FPS = 1000.0
"""Frames a second; cameras and screens end far below."""


@dataclass(frozen=True)
class TowerSpec:
    """A SigLIP vision tower; `layers` counts the layers that are used, not those of the checkpoint."""

    hub_id: str
    hidden_size: Size
    intermediate_size: Size
    layers: Annotated[int, Range(1, 1000)]
    heads: Annotated[int, Range(1, 4096)]
    image_size: Annotated[int, Range(1, 16384)]
    patch_size: Annotated[int, Range(1, 16384)]
    layer_norm_eps: Annotated[float, Range(0.0, 1.0, above=True)]

    @property
    def patches_per_side(self) -> int:
        """Side of the patch map; a remainder of the image is cut off, as the strided convolution does."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class ProjectorSpec:
    """From the tower's channels to the language model's C channels."""

    type: str
    output_size: Size


@dataclass(frozen=True)
class GridSpec:
    """The H×W tokens of one frame after the resize."""

    height: Annotated[int, Range(1, 1024)]
    width: Annotated[int, Range(1, 1024)]

    @property
    def cells(self) -> int:
        """N = H·W, tokens a frame."""
        return self.height * self.width


@dataclass(frozen=True)
class SamplingSpec:
    """Frame sampling of the published evaluation."""

    fps: Annotated[float, Range(0.0, MAX_FPS, above=True)]
    max_frames: Size


@dataclass(frozen=True)
class PublishedThresholds:
    """A row of the paper's threshold table (docs/semantics.md, section 6)."""

    budget: Share
    spatial: Cosine
    temporal: Cosine


@dataclass(frozen=True)
class MergingDefaults:
    """How the paper merges this model's tokens."""

    root_level: Annotated[int, Range(-1, 30)]
    published_layer: Annotated[int, Range(0, 1000)]
    positions: str
    thresholds: tuple[PublishedThresholds, ...]


@dataclass(frozen=True)
class ModelSpec:
    """One entry of `models/`."""

    name: str
    title: str
    hub_id: str
    layout: str
    tower: TowerSpec
    projector: ProjectorSpec
    grid: GridSpec
    sampling: SamplingSpec
    merging: MergingDefaults

    def published_thresholds(self, budget: float) -> PublishedThresholds:
        """Return the published row whose nominal budget is nearest to `budget`."""
        return min(self.merging.thresholds, key=lambda row: abs(row.budget - budget))


def model_names() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in data_directory("models").glob("*.toml"))


def load_model(name_or_path: str) -> ModelSpec:
    """Return the model of that name, or the one described by a TOML file of the same form.

    Raises:
        UserError: unknown name (with the nearest one), or a file with faults (all of them in one message).
    """
    if name_or_path.endswith(".toml"):
        return _parse_model(Path(name_or_path))
    if name_or_path not in model_names():
        raise UserError(f"Unknown model '{name_or_path}'.{did_you_mean(name_or_path, model_names())}")
    return _parse_model(data_directory("models") / f"{name_or_path}.toml")


def _parse_model(path: Path) -> ModelSpec:
    return _checked(read_toml(path), str(path))


def _checked(data: dict[str, Any], source: str) -> ModelSpec:
    faults: list[str] = []
    spec = read_record(ModelSpec, data, faults, strict=True)
    if not faults:
        faults = inconsistencies(spec)
    if faults:
        raise UserError(f"{source} does not describe a model: {'; '.join(faults)}. Compare with a file of models/.")
    return typing.cast(ModelSpec, spec)


def inconsistencies(spec: ModelSpec) -> list[str]:
    """What no model can be although every value of it is possible; empty for one that can be exported."""
    tower = spec.tower
    # It becomes part of a directory's name: no slash, nothing hidden, no name too long for what is put around it.
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", spec.name) is not None
    checks = [
        (plain, f"name must be letters, digits, '.', '_' and '-', at most 100, got {spec.name[:120]!r}"),
        (tower.hidden_size % tower.heads == 0, "tower.hidden_size is not a multiple of tower.heads"),
        (tower.image_size >= tower.patch_size, "tower.image_size is smaller than one patch"),
        (spec.projector.type == "mlp2x_gelu", "projector.type must be 'mlp2x_gelu'"),
        (spec.layout == "llava-next", "layout must be 'llava-next'"),
        (bool(spec.merging.thresholds), "'merging.thresholds' needs at least one table"),
    ]
    return [message for good, message in checks if not good]
