"""Qwen2-VL checkpoints: parameters of the vision tower, the layouts that name them, what their config.json must say.

Canonical names are the published ones below `visual.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from sttm_export.contracts.model import ModelSpec
from sttm_export.families.qwen2_vl.architecture import Qwen2VL, TowerSpec, qwen2_vl_of
from sttm_export.language.checkpoint import closed_form, prefixes
from sttm_export.weights.layout import CheckpointForm, Layout, Shape, differing, linear_shapes, norm_shapes
from sttm_export.weights.spread import spread

LAYOUTS: tuple[Layout, ...] = (
    # The published repositories.
    Layout("qwen2-vl", (*prefixes("model."), ("", "visual."))),
    # As newer releases of transformers have the tower inside of the model.
    Layout("qwen2-vl-v5", (*prefixes("model.language_model."), ("", "model.visual."))),
)


def parameter_shapes(qwen: Qwen2VL) -> dict[str, Shape]:
    """Return every parameter of the vision tower with its shape; the order is the canonical one."""
    tower, patch = qwen.tower, qwen.tower.patch_size
    shapes: dict[str, Shape] = {
        "patch_embed.proj.weight": (tower.embed_dim, 3, tower.temporal_patch_size, patch, patch)
    }
    for index in range(tower.depth):
        shapes.update({f"blocks.{index}.{name}": shape for name, shape in _block_shapes(tower).items()})
    shapes.update(norm_shapes("merger.ln_q", tower.embed_dim))
    shapes.update(linear_shapes("merger.mlp.0", tower.window_values, tower.window_values))
    shapes.update(linear_shapes("merger.mlp.2", tower.window_values, qwen.channels))
    return shapes


def _block_shapes(tower: TowerSpec) -> dict[str, Shape]:
    width = tower.embed_dim
    return {
        **norm_shapes("norm1", width),
        **norm_shapes("norm2", width),
        **linear_shapes("attn.qkv", width, 3 * width),
        **linear_shapes("attn.proj", width, width),
        **linear_shapes("mlp.fc1", width, tower.inner_size),
        **linear_shapes("mlp.fc2", tower.inner_size, width),
    }


def checkpoint_form(model: ModelSpec) -> CheckpointForm:
    """How checkpoints of a model look; all of them hold the tower."""
    faults = partial(_config_faults, qwen2_vl_of(model))
    return CheckpointForm(LAYOUTS, faults, "heads of the vision tower", closed=closed_form(model.decoder))


def _config_faults(qwen: Qwen2VL, config: Mapping[str, Any]) -> list[str]:
    # The tower's own `hidden_size` is the width of the language model, which the top level and newer files'
    # `text_config` name as well.
    widths = dict.fromkeys(("vision_config.hidden_size", "hidden_size", "text_config.hidden_size"), qwen.channels)
    tower = {f"vision_config.{key}": value for key, value in vars(qwen.tower).items()}
    fixed = {"model_type": "qwen2_vl", "vision_config.in_channels": 3, "vision_config.hidden_act": "quick_gelu"}
    return differing(config, {**tower, **fixed, **widths})


def distribution(model: ModelSpec, name: str, shape: Shape) -> tuple[float, float]:
    """Return mean and standard deviation of a random parameter."""
    depth = qwen2_vl_of(model).tower.depth
    return spread(name, shape, depth, sharpened=("attn.qkv",), damped=("attn.proj", "mlp.fc2"))
