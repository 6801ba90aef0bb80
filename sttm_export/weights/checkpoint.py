"""An opened checkpoint: config checked, layout found, and of its tensors only those read that are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.model import counted
from sttm_export.contracts.prompt import PromptSpec
from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError
from sttm_export.weights.checkpoint_tokenizer import checkpoint_tokenizer
from sttm_export.weights.files import CheckpointFiles, LocalFiles
from sttm_export.weights.layout import CheckpointForm, Closed, Layout, Shape, check_config, detect_layout
from sttm_export.weights.sources import resolve_checkpoint
from sttm_export.weights.tensor_files import first_few, read_tensors, tensor_index

CONFIG = "config.json"


@dataclass(frozen=True)
class _Opened:
    """Files whose layout is known: a whole model, or a tower's own repository."""

    files: CheckpointFiles
    index: Mapping[str, str]
    layout: Layout

    def holds(self, names: Mapping[str, Shape]) -> bool:
        return any(theirs in self.index for theirs in self.layout.names(names).values())

    def check(self, shapes: Mapping[str, Shape]) -> dict[str, str]:
        """Checkpoint names of these parameters; refuse what is not there."""
        names = self.layout.names(shapes)
        missing = [theirs for theirs in names.values() if theirs not in self.index]
        if missing:
            raise UserError(
                f"{self.files.identifier} lacks {len(missing)} of {len(names)} tensors of the layout "
                f"{self.layout.name}: {first_few(missing)}; give a complete checkpoint of this model."
            )
        return names

    def check_closed(self, closed: Closed, model: str) -> None:
        """Refuse tensors of that part which the model does not have."""
        if strange := closed.superfluous(self.layout, self.index):
            raise UserError(
                f"{self.files.identifier} holds {counted(len(strange), 'tensor')} that {model} does not have: "
                f"{first_few(strange)}; choose another --model or --weights."
            )

    def read(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        names = self.check(shapes)
        tensors = read_tensors(self.files, self.index, {theirs: shapes[name] for name, theirs in names.items()})
        return {name: tensors[theirs] for name, theirs in names.items()}


class Checkpoint:
    """A checkpoint whose tensors are read part by part.

    Args:
        model: name of the model, for messages.
        form: how checkpoints of its family look.
        shapes: all parameters that will be asked for.
        weights: directory or hub id.
        apart: directory or hub id of what may lie in a repository of its own (`--tower-weights`).

    Raises:
        UserError: anything wrong with the files, the config or the names; see the modules this one calls.
    """

    def __init__(
        self, model: str, form: CheckpointForm, shapes: Mapping[str, Shape], weights: str, apart: str | None
    ) -> None:
        form = form.asked_for(shapes)
        files, self._apart = resolve_checkpoint(weights), form.apart
        note = _check(files, form, model)
        self._main = _open(files, form.layouts, shapes)
        if form.closed:
            self._main.check_closed(form.closed, model)
        self._beside: _Opened | None = None
        identifier = files.identifier
        beside = self._parts_apart(shapes)
        own = not beside or self._main.holds(beside)
        if apart is not None and own:
            what = "has a vision tower of its own, tuned with its projector" if beside else "holds all that is needed"
            raise UserError(f"{identifier} {what}; leave out --tower-weights.")
        if not own and form.apart:
            other = resolve_checkpoint(apart or form.apart.hub_id)
            more = _check(other, form, model, apart=True)
            self._beside = _open(other, form.apart.layouts + form.layouts, beside)
            self._beside.check(beside)
            identifier, note = (
                f"{identifier} with the tower of {other.identifier}",
                "; ".join(filter(None, (note, more))),
            )
        self._main.check(shapes if own else {name: shapes[name] for name in shapes if name not in beside})
        self.source = WeightSource("checkpoint", identifier, revision=files.revision, note=note)

    def read(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """Return these parameters by canonical name, in their order, in the stored dtypes.

        Raises:
            UserError: tensors that are missing, or of another shape or dtype.
        """
        beside = self._parts_apart(shapes) if self._beside else {}
        found = self._beside.read(beside) if self._beside and beside else {}
        found |= self._main.read({name: shape for name, shape in shapes.items() if name not in beside})
        return {name: found[name] for name in shapes}

    def tokenizer(self, spec: DecoderSpec, prompt: PromptSpec) -> bytes:
        """Return its tokenizer as a `tokenizer.json`.

        Raises:
            UserError: none there, damaged, or of another model.
        """
        return checkpoint_tokenizer(self._main.files, spec, prompt)

    def _parts_apart(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        prefix = self._apart.prefix if self._apart else None
        return {name: shape for name, shape in shapes.items() if prefix and name.startswith(prefix)}


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


def _check(files: CheckpointFiles, form: CheckpointForm, model: str, *, apart: bool = False) -> str:
    """Check the config.json; where there is none, return what shapes alone do not tell, as a phrase."""
    faults_of = form.apart.config_faults if apart and form.apart else form.config_faults
    if CONFIG in files.names():
        check_config(files.path(CONFIG), faults_of, model)
        return ""
    if isinstance(files, LocalFiles) and os.path.lexists(files.path(CONFIG)):
        raise UserError(f"{files.path(CONFIG)} is no file; put the checkpoint's own there, or remove it.")
    if apart:
        return f"the tower's has no {CONFIG}, so its heads and layers were not checked"
    return f"it has no {CONFIG}, so {form.unchecked} were not checked"


def _open(files: CheckpointFiles, layouts: tuple[Layout, ...], shapes: Mapping[str, Shape]) -> _Opened:
    """Find the layout: that costs a few kilobytes, the shards come last."""
    index = tensor_index(files)
    layout = detect_layout(layouts, shapes, index)
    if layout is None:
        raise UserError(
            f"{files.identifier} has no tensor of a known layout ({', '.join(row.name for row in layouts)}); its names "
            f"begin with {first_few(sorted(index)) or 'nothing'}; choose the checkpoint that belongs to --model."
        )
    return _Opened(files, index, layout)
