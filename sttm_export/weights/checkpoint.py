"""Read a vision encoder's canonical state from a checkpoint, whatever its layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError
from sttm_export.families.llava.config_check import check_model_config, check_tower_config
from sttm_export.families.llava.layouts import MODEL_LAYOUTS, TOWER_LAYOUTS, Layout, detect_layout
from sttm_export.families.llava.parameters import TOWER_PREFIX, Shape, parameter_shapes
from sttm_export.weights.files import CheckpointFiles, LocalFiles
from sttm_export.weights.sources import resolve_checkpoint
from sttm_export.weights.tensor_files import first_few, read_tensors, tensor_index

CONFIG = "config.json"
Check = Callable[[Path, ModelSpec], None]


def load_checkpoint(
    model: ModelSpec, weights: str, tower_weights: str | None = None
) -> tuple[dict[str, Tensor], WeightSource]:
    """Return the canonical state, in the stored dtypes, and its provenance.

    A checkpoint without vision-tower tensors takes them from the tower's own repository, `tower_weights` or
    `model.tower.hub_id`.

    Raises:
        UserError: anything wrong with the files, the config or the tensors; see the modules this one calls.
    """
    shapes = parameter_shapes(model)
    files = resolve_checkpoint(weights)
    index, layout = _open(files, model, check_model_config, MODEL_LAYOUTS, shapes)
    note = _note(files, "it", "heads, pooling and projector")
    has_tower = any(theirs in index for name, theirs in layout.names(shapes).items() if name.startswith(TOWER_PREFIX))
    if has_tower and tower_weights:
        raise UserError(
            f"{files.identifier} has a vision tower of its own, tuned with its projector; leave out --tower-weights."
        )
    own = {name: shape for name, shape in shapes.items() if has_tower or not name.startswith(TOWER_PREFIX)}
    state, identifier = _read(files, index, layout, own), files.identifier
    if not has_tower:
        tower, tower_identifier, tower_note = _load_tower(model, tower_weights or model.tower.hub_id)
        note = "; ".join(filter(None, (note, tower_note)))
        # The tower comes first in canonical order, which the digest and the caller rely on.
        state, identifier = {**tower, **state}, f"{identifier} with the tower of {tower_identifier}"
    return state, WeightSource("checkpoint", identifier, digest(state), revision=files.revision, note=note)


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over `name dtype shape` and the bytes of each tensor in order, without copying them.

    Raises:
        UserError: a value that is not finite; no export of such weights can mean anything.
    """
    sha = hashlib.sha256()
    for name, tensor in state.items():
        if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
            raise UserError(f"Parameter {name} holds NaN or infinity; the checkpoint is damaged, download it again.")
        sha.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _load_tower(model: ModelSpec, source: str) -> tuple[dict[str, Tensor], str, str]:
    shapes = {name: shape for name, shape in parameter_shapes(model).items() if name.startswith(TOWER_PREFIX)}
    files = resolve_checkpoint(source)
    index, layout = _open(files, model, check_tower_config, TOWER_LAYOUTS + MODEL_LAYOUTS, shapes)
    note = _note(files, "the tower's", "its heads and layers")
    return _read(files, index, layout, shapes), files.identifier, note


def _note(files: CheckpointFiles, what: str, unchecked: str) -> str:
    """What shapes alone do not tell, where there is no config to tell it."""
    return "" if CONFIG in files.names() else f"{what} has no {CONFIG}, so {unchecked} were not checked"


def _open(
    files: CheckpointFiles, model: ModelSpec, check: Check, layouts: tuple[Layout, ...], shapes: Mapping[str, Shape]
) -> tuple[dict[str, str], Layout]:
    """Check the config, then find the layout: both cost a few kilobytes, the shards come last."""
    if CONFIG in files.names():
        check(files.path(CONFIG), model)
    elif isinstance(files, LocalFiles) and os.path.lexists(files.path(CONFIG)):
        raise UserError(f"{files.path(CONFIG)} is no file; put the checkpoint's own there, or remove it.")
    index = tensor_index(files)
    layout = detect_layout(layouts, shapes, index, preferred=model.layout)
    if layout is None:
        raise UserError(
            f"{files.identifier} has no tensor of a known layout ({', '.join(row.name for row in layouts)}); its names "
            f"begin with {first_few(sorted(index)) or 'nothing'}; choose the checkpoint that belongs to --model."
        )
    return index, layout


def _read(
    files: CheckpointFiles, index: Mapping[str, str], layout: Layout, shapes: Mapping[str, Shape]
) -> dict[str, Tensor]:
    names = layout.names(shapes)
    missing = [theirs for theirs in names.values() if theirs not in index]
    if missing:
        raise UserError(
            f"{files.identifier} lacks {len(missing)} of {len(names)} tensors of the layout {layout.name}: "
            f"{first_few(missing)}; give a complete checkpoint of this model."
        )
    tensors = read_tensors(files, index, {theirs: shapes[name] for name, theirs in names.items()})
    return {name: tensors[theirs] for name, theirs in names.items()}
