"""Tiny models and synthetic checkpoints of the published layouts, for every test that needs weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.model import (
    GridSpec,
    MergingDefaults,
    ModelSpec,
    PixelSpec,
    PublishedThresholds,
    SamplingSpec,
)
from sttm_export.contracts.recipe import Recipe
from sttm_export.contracts.weights import WeightSource
from sttm_export.families.llava import reference
from sttm_export.families.llava.architecture import llava_of
from sttm_export.families.llava.checkpoint import MODEL_LAYOUTS, TOWER_LAYOUTS, parameter_shapes
from sttm_export.families.llava.encoder import VisionEncoder
from sttm_export.families.modules import build_module
from sttm_export.families.part import Part
from sttm_export.families.registry import family_of
from sttm_export.families.weights import open_weights
from sttm_export.weights.checkpoint import digest
from sttm_export.weights.layout import Layout

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
        family="llava",
        channels=channels,
        pixels=PixelSpec(image, image, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        grid=GridSpec(*grid),
        architecture={
            "projector": "mlp2x_gelu",
            "tower": {
                "hub_id": TOWER_ID,
                "hidden_size": hidden,
                "intermediate_size": intermediate,
                "layers": layers,
                "heads": heads,
                "patch_size": patch,
                "layer_norm_eps": 1e-6,
            },
        },
        sampling=SamplingSpec(1.0, max_frames),
        merging=MergingDefaults(
            1, 2, "reassigned", (PublishedThresholds(0.5, 0.85, 0.65), PublishedThresholds(0.3, 0.8, 0.6))
        ),
    )


def write_tiny_model_toml(path: Path, model: ModelSpec | None = None) -> Path:
    """Write a model as a TOML file that `load_model` reads back; returns the path."""
    model = model or tiny_model()
    plain = ("name", "title", "hub_id", "family", "channels", "frames_per_step")
    lines = [f"{key} = {json.dumps(getattr(model, key))}" for key in plain]
    for table in ("pixels", "grid", "sampling"):
        lines += [f"[{table}]", *_rows(vars(getattr(model, table)))]
    tables = {key: value for key, value in model.architecture.items() if isinstance(value, dict)}
    lines += ["[architecture]", *_rows({key: row for key, row in model.architecture.items() if key not in tables})]
    for key, values in tables.items():
        lines += [f"[architecture.{key}]", *_rows(values)]
    if model.decoder:
        lines += ["[decoder]", *_rows(vars(model.decoder))]
    if model.prompt:
        lines += ["[prompt]", *_rows(vars(model.prompt))]
    merging = dict(vars(model.merging))
    thresholds = merging.pop("thresholds")
    lines += ["[merging]", *_rows(merging)]
    for row in thresholds:
        lines += ["[[merging.thresholds]]", *_rows(vars(row))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_recipe(
    model: ModelSpec | None = None, *, frames: int = 4, budget: float = 0.5, precision: str = "fp32", batch: int = 2
) -> Recipe:
    """An export of a tiny model."""
    model = model or tiny_model()
    merge = MergeSpec(frames, model.grid.height, model.grid.width, model.channels, budget)
    return Recipe(model, merge, Thresholds(0.85, 0.65, "a test"), precision, "fp32", batch)


def tiny_parts(model: ModelSpec | None = None, **options: object) -> dict[str, Part]:
    """Parts of a tiny model by the names of their graphs; options as `tiny_recipe`."""
    recipe = tiny_recipe(model, **options)
    return {part.name: part for part in family_of(recipe.model).parts(recipe)}


def encoder_shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Parameters of a model's vision encoder."""
    return parameter_shapes(llava_of(model))


def build_encoder(model: ModelSpec, state: Mapping[str, Tensor], precision: str) -> VisionEncoder:
    """The vision encoder that is exported."""
    return build_module(lambda: VisionEncoder(llava_of(model)), state, precision)


def build_reference(model: ModelSpec, state: Mapping[str, Tensor]) -> torch.nn.Module:
    """The published vision encoder."""
    return reference.build_reference(llava_of(model), state)


def load_checkpoint(
    model: ModelSpec, weights: str, tower_weights: str | None = None
) -> tuple[dict[str, Tensor], WeightSource]:
    """State and provenance of a model's vision encoder, as an export reads them."""
    shapes = encoder_shapes(model)
    opened = open_weights(model, shapes, weights, None, tower_weights)
    state = opened.read(shapes)
    return state, dataclasses.replace(opened.source, sha256=digest(state))


def record_reads(monkeypatch) -> list[str]:
    """The list to which the name of every tensor is added that is read of a safetensors file from now on."""
    import safetensors

    read: list[str] = []

    class Recording:
        def __init__(self, *args, **kwargs):
            self.manager = real(*args, **kwargs)

        def __enter__(self):
            self.file = self.manager.__enter__()
            return self

        def __exit__(self, *error):
            return self.manager.__exit__(*error)

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

        def __getattr__(self, name):
            return getattr(self.file, name)

    real = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", Recording)
    return read


def random_state(model: ModelSpec, seed: int) -> dict[str, Tensor]:
    """Canonical random state of a model's vision encoder, as an export with --random-weights has it."""
    shapes = encoder_shapes(model)
    return open_weights(model, shapes, None, seed).read(shapes)


def tiny_state(model: ModelSpec | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Canonical random state of a tiny model, float32."""
    return {name: tensor.float() for name, tensor in random_state(model or tiny_model(), seed).items()}


def tiny_pixels(model: ModelSpec, frames: int = 2, seed: int = 0) -> Tensor:
    """Smooth random frames in [-1, 1], float32 [B, 3, S, S]: neighbouring patches resemble each other, as in video."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 5, 5, generator=generator) * 2 - 1
    size = model.pixels.height
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
    tower, width = llava_of(model).tower, model.channels
    vision = {
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_attention_heads": tower.heads,
        "num_hidden_layers": tower.layers + (layout == "siglip"),
        "image_size": model.pixels.height,
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
    tower = llava_of(model).tower
    layers = dict(row.prefixes)["tower.layers."]
    above = layers.removesuffix("encoder.layers.")
    extra = f"{layers}{tower.layers}.layer_norm1"
    names = [f"{extra}.weight", f"{extra}.bias", f"{above}post_layernorm.weight", f"{above}post_layernorm.bias"]
    return {name: torch.full((tower.hidden_size,), torch.nan, dtype=dtype) for name in names}


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
