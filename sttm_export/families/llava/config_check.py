"""Compare a checkpoint's config.json with the model that is asked for, before any tensor is read.

Shapes alone do not tell everything apart: the number of heads, the order of pooling and the kind of projector leave
them as they are. A key that is absent or null is not checked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sttm_export.contracts.model import ModelSpec, TowerSpec
from sttm_export.contracts.records import read_json
from sttm_export.errors import UserError


def check_model_config(path: Path, model: ModelSpec) -> None:
    """Check the config.json of a whole model, in the original or the Hugging Face layout.

    Raises:
        UserError: unreadable, or contradicting the model; all contradictions in one message.
    """
    config = read_json_object(path)
    faults = _faults(config, _model_expectations(model)) + _tower_faults(config, model.tower)
    faults += _pool_faults(config, model) + _tower_name_faults(config, model)
    _refuse(path, model, faults)


def check_tower_config(path: Path, model: ModelSpec) -> None:
    """Check the config.json of a tower's own repository.

    Raises:
        UserError: unreadable, or contradicting the model's tower.
    """
    _refuse(path, model, _tower_faults(read_json_object(path), model.tower))


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; anything else is a `UserError` that names it."""
    try:
        data = read_json(path)
    except ValueError as error:
        raise UserError(f"Cannot read {path} as JSON ({error}); download that file again.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object; download that file again.")
    return data


def _refuse(path: Path, model: ModelSpec, faults: list[str]) -> None:
    if faults:
        raise UserError(
            f"{path} does not belong to {model.name}: {'; '.join(faults)}; choose another --model or --weights."
        )


def _model_expectations(model: ModelSpec) -> dict[str, Any]:
    return {
        "mm_projector_type": model.projector.type,
        "mm_spatial_pool_mode": "bilinear",
        "mm_hidden_size": model.tower.hidden_size,
        "hidden_size": model.projector.output_size,
        "text_config.hidden_size": model.projector.output_size,
        "projector_hidden_act": "gelu",
    }


def _tower_expectations(tower: TowerSpec) -> dict[str, Any]:
    return {
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_attention_heads": tower.heads,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "layer_norm_eps": tower.layer_norm_eps,
        "hidden_act": "gelu_pytorch_tanh",
    }


def _look_up(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _faults(config: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    found = [(key, _look_up(config, key), wanted) for key, wanted in expected.items()]
    differing = [row for row in found if row[1] is not None and row[1] != row[2]]
    return [f"{key} is {value!r}, expected {wanted!r}" for key, value, wanted in differing]


def _tower_faults(config: dict[str, Any], tower: TowerSpec) -> list[str]:
    expected = {f"vision_config.{key}": wanted for key, wanted in _tower_expectations(tower).items()}
    faults = _faults(config, expected)
    layers = _look_up(config, "vision_config.num_hidden_layers")
    if not isinstance(layers, int):
        return faults
    # `vision_feature_layer` counts hidden states from the end; -1 is the output of the last layer.
    selected = config.get("vision_feature_layer")
    if isinstance(selected, int) and selected < 0 and layers + 1 + selected != tower.layers:
        faults.append(f"vision_feature_layer {selected} of {layers} layers is not the output of layer {tower.layers}")
    elif layers < tower.layers:
        faults.append(f"the vision tower has {layers} layers, expected at least {tower.layers}")
    return faults


def _pool_faults(config: dict[str, Any], model: ModelSpec) -> list[str]:
    stride = config.get("mm_spatial_pool_stride")
    if not isinstance(stride, int) or stride < 1:
        return []
    side = math.ceil(model.tower.patches_per_side / stride)
    if (model.grid.height, model.grid.width) == (side, side):
        return []
    grid = f"{model.grid.height}x{model.grid.width}"
    return [f"mm_spatial_pool_stride {stride} gives a {side}x{side} grid, expected {grid}"]


def _tower_name_faults(config: dict[str, Any], model: ModelSpec) -> list[str]:
    """Compare the tower's last path component: fine-tuned checkpoints often name a directory of their own machine."""
    name = config.get("mm_vision_tower")
    wanted = model.tower.hub_id.rsplit("/", 1)[-1]
    if not isinstance(name, str) or name.rstrip("/").rsplit("/", 1)[-1] == wanted:
        return []
    return [f"mm_vision_tower is {name!r}, expected {wanted!r}"]
