"""The safetensors files of a checkpoint: which file holds which tensor, and reading just those that are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from sttm_export.errors import UserError
from sttm_export.weights.files import CheckpointFiles, read_json_object
from sttm_export.weights.layout import Shape

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth")
# Header names of safetensors; quantized and integer weights would need their scales, which the layouts do not have.
FLOAT_DTYPES = ("F32", "F16", "BF16")


def tensor_index(files: CheckpointFiles) -> dict[str, str]:
    """Return tensor name → file name, from the index of a sharded checkpoint or from the files' own headers.

    Raises:
        UserError: no safetensors file, only pickles, or an index that cannot be used.
    """
    names = files.names()
    if INDEX in names:
        return _read_index(files.path(INDEX), names)
    shards = [name for name in names if name.endswith(".safetensors")]
    if not shards:
        raise _no_safetensors(files.identifier, names)
    index: dict[str, str] = {}
    for shard in shards:
        with _opened(files.path(shard)) as file:
            for name in file.keys():  # noqa: SIM118 - a reader of safetensors, not a dict
                if name in index:
                    raise UserError(
                        f"{files.identifier} holds {name} twice, in {index[name]} and {shard}, and has no {INDEX} that "
                        "says which counts; remove the file that does not belong there."
                    )
                index[name] = shard
    return index


def read_tensors(files: CheckpointFiles, index: Mapping[str, str], wanted: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Return the wanted tensors by checkpoint name, in their stored dtype; no other tensor is read.

    The tensors may be views of the mapped files: their pages are read when used and count to nobody's heap.

    Raises:
        UserError: a shard that is missing or damaged, or tensors of another shape or dtype (all of them counted).
    """
    by_shard: dict[str, list[str]] = defaultdict(list)
    for name in wanted:
        by_shard[index[name]].append(name)
    tensors: dict[str, Tensor] = {}
    faults: list[str] = []
    for shard, names in sorted(by_shard.items()):
        with _opened(files.path(shard)) as file:
            faults += _shard_faults(file, shard, names, wanted)
            if not faults:
                tensors.update({name: file.get_tensor(name) for name in names})
    if faults:
        raise UserError(f"{files.identifier} does not fit the model: {first_few(faults)}; choose another --model.")
    return tensors


def first_few(items: list[str], limit: int = 3) -> str:
    """Join the first items and count the rest."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return "; ".join(items[:limit]) + more


def _read_index(path: Path, names: list[str]) -> dict[str, str]:
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f"{path} has no weight_map of tensor names to file names; download that file again.")
    # A shard is a plain file name: an index must not lead out of its directory.
    strays = sorted({shard for shard in weight_map.values() if Path(shard).name != shard})
    if strays:
        raise UserError(f"{path} points outside its directory ({first_few(strays)}); use a checkpoint you trust.")
    return weight_map


def _no_safetensors(identifier: str, names: list[str]) -> UserError:
    if any(name.endswith(PICKLES) for name in names):
        return UserError(
            f"{identifier} holds pickled weights only, which can run code when loaded and are refused; convert them to "
            "safetensors, or give a checkpoint that has *.safetensors files."
        )
    return UserError(f"{identifier} holds no *.safetensors file; give the directory of a whole checkpoint.")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is missing although the checkpoint refers to it; download that shard.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or incomplete ({error}); download that file again.") from error


def _shard_faults(file: Any, shard: str, names: list[str], wanted: Mapping[str, Shape]) -> list[str]:
    present = set(file.keys())
    faults = []
    for name in names:
        if name not in present:
            faults.append(f"{shard} lacks {name} although the index places it there")
            continue
        header = file.get_slice(name)
        shape, dtype = tuple(header.get_shape()), header.get_dtype()
        if shape != wanted[name]:
            faults.append(f"{name} has shape {list(shape)}, expected {list(wanted[name])}")
        if dtype not in FLOAT_DTYPES:
            faults.append(f"{name} is stored as {dtype}, expected one of {', '.join(FLOAT_DTYPES)}")
    return faults
