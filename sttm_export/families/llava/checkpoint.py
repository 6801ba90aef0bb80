"""LLaVA checkpoints: parameters and their shapes, the layouts that name them, and what their config.json must say.

Canonical names: `tower.patch_embedding.*`, `tower.position_embedding.weight`, `tower.layers.{i}.<published SigLIP
name>`, `projector.fc1.*` and `projector.fc2.*`. No post-layernorm and no pooling head: the models do not use them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from sttm_export.contracts.model import ModelSpec
from sttm_export.families.llava.architecture import Llava, TowerSpec, llava_of
from sttm_export.language.checkpoint import closed_form, prefixes
from sttm_export.weights.layout import (
    Apart,
    CheckpointForm,
    Layout,
    Shape,
    differing,
    linear_shapes,
    look_up,
    norm_shapes,
)
from sttm_export.weights.spread import spread

TOWER = "tower."


def parameter_shapes(llava: Llava) -> dict[str, Shape]:
    """Return every parameter of the vision encoder with its shape; the order is the canonical one."""
    tower, width = llava.tower, llava.tower.hidden_size
    shapes: dict[str, Shape] = {
        "tower.patch_embedding.weight": (width, 3, tower.patch_size, tower.patch_size),
        "tower.patch_embedding.bias": (width,),
        "tower.position_embedding.weight": (llava.patches, width),
    }
    for index in range(tower.layers):
        shapes.update({f"tower.layers.{index}.{name}": shape for name, shape in _layer_shapes(tower).items()})
    shapes.update(linear_shapes("projector.fc1", width, llava.channels))
    shapes.update(linear_shapes("projector.fc2", llava.channels, llava.channels))
    return shapes


def _layer_shapes(tower: TowerSpec) -> dict[str, Shape]:
    hidden, inner = tower.hidden_size, tower.intermediate_size
    shapes = {**norm_shapes("layer_norm1", hidden), **norm_shapes("layer_norm2", hidden)}
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes.update(linear_shapes(f"self_attn.{projection}", hidden, hidden))
    shapes.update(linear_shapes("mlp.fc1", hidden, inner))
    shapes.update(linear_shapes("mlp.fc2", inner, hidden))
    return shapes


def _tower_layout(name: str, tower: str, *more: tuple[str, str]) -> Layout:
    """A layout by what stands before SigLIP's own names."""
    return Layout(name, (("tower.layers.", f"{tower}encoder.layers."), (TOWER, f"{tower}embeddings."), *more))


def _layout(name: str, tower: str, projector: tuple[str, str], decoder: tuple[tuple[str, str], ...]) -> Layout:
    """The same with what stands before the projector's two Linears, and the decoder's names."""
    first, second = projector
    return _tower_layout(name, tower, ("projector.fc1.", first), ("projector.fc2.", second), *decoder)


_PROJECTOR = ("multi_modal_projector.linear_1.", "multi_modal_projector.linear_2.")
_PROJECTOR_V5 = ("model.multi_modal_projector.linear_1.", "model.multi_modal_projector.linear_2.")
_DECODER, _DECODER_V5 = prefixes("language_model.model.", "language_model."), prefixes("model.language_model.")
MODEL_LAYOUTS: tuple[Layout, ...] = (
    # lmms-lab releases of LLaVA-Video and LLaVA-OneVision.
    _layout(
        "llava-next",
        "model.vision_tower.vision_tower.vision_model.",
        ("model.mm_projector.0.", "model.mm_projector.2."),
        prefixes("model."),
    ),
    # llava-hf conversions, as first published and as newer releases of transformers save them.
    _layout("llava-hf", "vision_tower.vision_model.", _PROJECTOR, _DECODER),
    _layout("llava-hf-v5", "model.vision_tower.vision_model.", _PROJECTOR_V5, _DECODER_V5),
    # transformers 5.x releases without the inner wrapper of the tower, under their own names and the first ones.
    _layout("llava-hf-flat", "model.vision_tower.", _PROJECTOR_V5, _DECODER_V5),
    _layout("llava-hf-flat-first", "vision_tower.", _PROJECTOR, _DECODER),
)
# The tower's own repository (google/siglip-…), and the same saved by a transformers without the inner wrapper.
TOWER_LAYOUTS: tuple[Layout, ...] = (_tower_layout("siglip", "vision_model."), _tower_layout("siglip-flat", ""))


def checkpoint_form(model: ModelSpec) -> CheckpointForm:
    """How checkpoints of a model look; those of lmms-lab may lack the tower."""
    llava = llava_of(model)
    tower = Apart(TOWER, llava.tower.hub_id, TOWER_LAYOUTS, partial(_tower_faults, llava))
    unchecked = "heads, pooling and projector"
    return CheckpointForm(MODEL_LAYOUTS, partial(_config_faults, llava), unchecked, tower, closed_form(model.decoder))


def _config_faults(llava: Llava, config: Mapping[str, Any]) -> list[str]:
    expected = {
        "mm_projector_type": "mlp2x_gelu",
        "mm_spatial_pool_mode": "bilinear",
        "mm_hidden_size": llava.tower.hidden_size,
        "hidden_size": llava.channels,
        "text_config.hidden_size": llava.channels,
        "projector_hidden_act": "gelu",
    }
    faults = differing(config, expected) + _tower_faults(llava, config)
    return faults + _pool_faults(llava, config) + _tower_name_faults(llava.tower, config)


def _tower_faults(llava: Llava, config: Mapping[str, Any]) -> list[str]:
    tower = llava.tower
    expected = {
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_attention_heads": tower.heads,
        "image_size": llava.image_size,
        "patch_size": tower.patch_size,
        "layer_norm_eps": tower.layer_norm_eps,
        "hidden_act": "gelu_pytorch_tanh",
    }
    faults = differing(config, {f"vision_config.{key}": wanted for key, wanted in expected.items()})
    layers = look_up(config, "vision_config.num_hidden_layers")
    if not isinstance(layers, int):
        return faults
    # `vision_feature_layer` counts hidden states from the end; -1 is the output of the last layer.
    selected = config.get("vision_feature_layer")
    if isinstance(selected, int) and selected < 0 and layers + 1 + selected != tower.layers:
        faults.append(f"vision_feature_layer {selected} of {layers} layers is not the output of layer {tower.layers}")
    elif layers < tower.layers:
        faults.append(f"the vision tower has {layers} layers, expected at least {tower.layers}")
    return faults


def _pool_faults(llava: Llava, config: Mapping[str, Any]) -> list[str]:
    stride = config.get("mm_spatial_pool_stride")
    if not isinstance(stride, int) or stride < 1:
        return []
    side, grid = math.ceil(llava.patches_per_side / stride), llava.grid
    if (grid.height, grid.width) == (side, side):
        return []
    return [f"mm_spatial_pool_stride {stride} gives a {side}x{side} grid, expected {grid.height}x{grid.width}"]


def _tower_name_faults(tower: TowerSpec, config: Mapping[str, Any]) -> list[str]:
    """Compare the tower's last path component: fine-tuned checkpoints often name a directory of their own machine."""
    name = config.get("mm_vision_tower")
    wanted = tower.hub_id.rsplit("/", 1)[-1]
    if not isinstance(name, str) or name.rstrip("/").rsplit("/", 1)[-1] == wanted:
        return []
    return [f"mm_vision_tower is {name!r}, expected {wanted!r}"]


def distribution(model: ModelSpec, name: str, shape: Shape) -> tuple[float, float]:
    """Return mean and standard deviation of a random parameter."""
    depth, tables = llava_of(model).tower.layers, {"position_embedding": 0.1}
    return spread(name, shape, depth, sharpened=("q_proj", "k_proj"), damped=("out_proj", "mlp.fc2"), tables=tables)
