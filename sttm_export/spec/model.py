"""What a model is: tower, projector, grid, frame sampling, published thresholds. Read from `models/*.toml`."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.errors import UserError, did_you_mean
from sttm_export.spec.files import data_directory, read_toml


@dataclass(frozen=True)
class TowerSpec:
    """A SigLIP vision tower; `layers` counts the layers that are used, not those of the checkpoint."""

    hub_id: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float

    @property
    def patches_per_side(self) -> int:
        """Side of the patch map; a remainder of the image is cut off, as the strided convolution does."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class ProjectorSpec:
    """From the tower's channels to the language model's C channels."""

    type: str
    output_size: int


@dataclass(frozen=True)
class GridSpec:
    """The H×W tokens of one frame after the resize."""

    height: int
    width: int

    @property
    def cells(self) -> int:
        """N = H·W, tokens a frame."""
        return self.height * self.width


@dataclass(frozen=True)
class SamplingSpec:
    """Frame sampling of the published evaluation."""

    fps: float
    max_frames: int


@dataclass(frozen=True)
class PublishedThresholds:
    """A row of the paper's threshold table (docs/semantics.md, section 6)."""

    budget: float
    spatial: float
    temporal: float


@dataclass(frozen=True)
class MergingDefaults:
    """How the paper merges this model's tokens."""

    root_level: int
    published_layer: int
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


def model_from_json(data: dict[str, Any]) -> ModelSpec:
    """Read back what `dataclasses.asdict` wrote into a manifest.

    Raises:
        UserError: the data does not describe a model.
    """
    return _checked(data, "The manifest")


def _parse_model(path: Path) -> ModelSpec:
    return _checked(read_toml(path), str(path))


def _checked(data: dict[str, Any], source: str) -> ModelSpec:
    faults: list[str] = []
    spec = _build(ModelSpec, data, "", faults)
    if not faults:
        faults = _inconsistencies(spec)
    if faults:
        raise UserError(f"{source} does not describe a model: {'; '.join(faults)}. Compare with a file of models/.")
    return typing.cast(ModelSpec, spec)


def _build(cls: type, data: dict[str, Any], where: str, faults: list[str]) -> Any:
    """Fill a dataclass from a TOML table, collecting every fault instead of stopping at the first."""
    hints = typing.get_type_hints(cls)
    known = {field.name for field in dataclasses.fields(cls)}
    faults.extend(f"unknown key '{where}{key}'" for key in sorted(set(data) - known))
    values = {}
    for name in known:
        if name not in data:
            faults.append(f"missing '{where}{name}'")
        else:
            values[name] = _convert(hints[name], data[name], where + name, faults)
    return cls(**values) if known == set(values) else None


def _convert(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    if typing.get_origin(hint) is tuple:
        rows = list(value) if isinstance(value, (list, tuple)) else []
        if not rows:
            faults.append(f"'{where}' needs at least one table")
        return tuple(_convert(typing.get_args(hint)[0], row, f"{where}[{i}]", faults) for i, row in enumerate(rows))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            faults.append(f"'{where}' must be a table")
            return None
        return _build(typing.cast(type, hint), value, where + ".", faults)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or isinstance(value, bool):
        faults.append(f"'{where}' must be {hint.__name__}, got {value!r}")
    return value


def _inconsistencies(spec: ModelSpec) -> list[str]:
    tower, grid = spec.tower, spec.grid
    checks = [
        (tower.hidden_size % tower.heads == 0, "tower.hidden_size is not a multiple of tower.heads"),
        (min(tower.hidden_size, tower.layers, tower.heads, tower.patch_size) > 0, "tower sizes must be positive"),
        (tower.image_size >= tower.patch_size, "tower.image_size is smaller than one patch"),
        (grid.height > 0 and grid.width > 0, "grid sides must be positive"),
        (spec.projector.type == "mlp2x_gelu", "projector.type must be 'mlp2x_gelu'"),
        (spec.layout == "llava-next", "layout must be 'llava-next'"),
        (spec.sampling.fps > 0 and spec.sampling.max_frames > 0, "sampling values must be positive"),
    ]
    return [message for good, message in checks if not good]
