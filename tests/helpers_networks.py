"""Tiny models and synthetic checkpoints of the published layouts, for every test that needs weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sttm_export.contracts.model import (
    GridSpec,
    MergingDefaults,
    ModelSpec,
    ProjectorSpec,
    PublishedThresholds,
    SamplingSpec,
    TowerSpec,
)
from sttm_export.families.llava.layouts import MODEL_LAYOUTS, TOWER_LAYOUTS, Layout
from sttm_export.weights.random import random_state

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (*MODEL_LAYOUTS, *TOWER_LAYOUTS)}
TOWER_ID = "google/tiny-siglip"


def tiny_model(
    *,
    image: int = 56,
    patch: int = 14,
    hidden: int = 32,
    intermediate: int = 64,
    layers: int = 2,
    heads: int = 4,
    grid: tuple[int, int] = (3, 3),
    channels: int = 48,
    max_frames: int = 16,
) -> ModelSpec:
    """A model of the same form as models/*.toml that runs in milliseconds: 4x4 patches, 3x3 tokens."""
    return ModelSpec(
        name="tiny",
        title="Tiny",
        hub_id="example/tiny-video",
        layout="llava-next",
        tower=TowerSpec(TOWER_ID, hidden, intermediate, layers, heads, image, patch, 1e-6),
        projector=ProjectorSpec("mlp2x_gelu", channels),
        grid=GridSpec(*grid),
        sampling=SamplingSpec(1.0, max_frames),
        merging=MergingDefaults(
            1, 2, "reassigned", (PublishedThresholds(0.5, 0.85, 0.65), PublishedThresholds(0.3, 0.8, 0.6))
        ),
    )


def write_tiny_model_toml(path: Path, model: ModelSpec | None = None) -> Path:
    """Write a model as a TOML file that `load_model` reads back; returns the path."""
    model = model or tiny_model()
    lines = [f"{key} = {json.dumps(getattr(model, key))}" for key in ("name", "title", "hub_id", "layout")]
    for table in ("tower", "projector", "grid", "sampling"):
        lines += [f"[{table}]", *_rows(vars(getattr(model, table)))]
    merging = dict(vars(model.merging))
    thresholds = merging.pop("thresholds")
    lines += ["[merging]", *_rows(merging)]
    for row in thresholds:
        lines += ["[[merging.thresholds]]", *_rows(vars(row))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_state(model: ModelSpec | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Canonical random state of a tiny model, float32."""
    return {name: tensor.float() for name, tensor in random_state(model or tiny_model(), seed).items()}


def tiny_pixels(model: ModelSpec, frames: int = 2, seed: int = 0) -> Tensor:
    """Smooth random frames in [-1, 1], float32 [B, 3, S, S]: neighbouring patches resemble each other, as in video."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 5, 5, generator=generator) * 2 - 1
    size = model.tower.image_size
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)


def write_checkpoint(
    directory: Path,
    model: ModelSpec,
    state: Mapping[str, Tensor],
    layout: str = "llava-next",
    *,
    shards: int = 2,
    dtype: torch.dtype = torch.float32,
    tower: bool = True,
    config: bool = True,
    drop: Iterable[str] = (),
    change: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a small checkpoint of a published layout; returns the directory.

    The last shard holds only language-model tensors, which must never be read; the first ones also hold a layer more
    than is used and a post-layernorm. `drop` and `change` take canonical names.
    """
    directory.mkdir(parents=True, exist_ok=True)
    row = LAYOUTS[layout]
    wanted = {**state, **(change or {})}
    kept = {name: tensor for name, tensor in wanted.items() if name not in set(drop)}
    if not tower:
        kept = {name: tensor for name, tensor in kept.items() if not name.startswith("tower.")}
    tensors = {theirs: kept[name].to(_stored(kept[name], dtype)) for name, theirs in row.names(kept).items()}
    if tower:
        tensors.update(_unused_tower_tensors(row, model, dtype))
    _save(directory, tensors, _language_tensors(dtype), shards)
    if config:
        write_config(directory, model, layout)
    return directory


def write_config(directory: Path, model: ModelSpec, layout: str = "llava-next", **changes: object) -> Path:
    """Write the config.json of a layout with some keys changed; a key of None is written as null."""
    tower, width = model.tower, model.projector.output_size
    vision = {
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_attention_heads": tower.heads,
        "num_hidden_layers": tower.layers + (layout == "siglip"),
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
    }
    original = {
        "mm_vision_tower": tower.hub_id,
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": tower.hidden_size,
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": None,
        "hidden_size": width,
    }
    hugging_face = {
        "vision_config": vision,
        "text_config": {"hidden_size": width},
        "vision_feature_layer": -1,
        "projector_hidden_act": "gelu",
    }
    config = {"llava-next": original, "siglip": {"vision_config": vision}}.get(layout, hugging_face)
    path = directory / "config.json"
    path.write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return path


def _rows(values: Mapping[str, object]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def _stored(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype


def _unused_tower_tensors(row: Layout, model: ModelSpec, dtype: torch.dtype) -> dict[str, Tensor]:
    extra = f"{row.tower}encoder.layers.{model.tower.layers}.layer_norm1"
    names = [f"{extra}.weight", f"{extra}.bias", f"{row.tower}post_layernorm.weight", f"{row.tower}post_layernorm.bias"]
    return {name: torch.full((model.tower.hidden_size,), torch.nan, dtype=dtype) for name in names}


def _language_tensors(dtype: torch.dtype) -> dict[str, Tensor]:
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.image_newline"]
    return {name: torch.full((8, 4), torch.nan, dtype=dtype) for name in names}


def _save(directory: Path, vision: dict[str, Tensor], language: dict[str, Tensor], shards: int) -> None:
    if shards == 1:
        save_file({**vision, **language}, directory / "model.safetensors")
        return
    names = list(vision)
    parts = [dict.fromkeys(names[start :: shards - 1]) for start in range(shards - 1)]
    files = [{name: vision[name].contiguous() for name in part} for part in parts] + [language]
    weight_map = {}
    for number, tensors in enumerate(files, 1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(tensors, directory / file)
        weight_map.update(dict.fromkeys(tensors, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
