"""`fixtures/*.npz`: the inputs a graph was checked with and the outputs the reference gave, in reproducible bytes."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sttm_export.contracts.graph import GraphSpec, TensorSpec, rows_of
from sttm_export.errors import UserError

Array = npt.NDArray[Any]
# The earliest date a zip file can carry. `numpy.savez` stores the time of writing: a new hash for the same fixture.
EPOCH = (1980, 1, 1, 0, 0, 0)
# What zip and NumPy raise for bytes that are not theirs: another method or a password is a RuntimeError, a header that
# promises an array beyond any memory a MemoryError, one that is no Python literal a SyntaxError or TypeError.
_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, SyntaxError, RuntimeError, MemoryError),
    *(OverflowError, tokenize.TokenError, zipfile.BadZipFile, struct.error, zlib.error),
)


def write_fixture(
    path: Path, spec: GraphSpec, inputs: Mapping[str, Array], outputs: Mapping[str, Array], *, packed: bool = False
) -> Path:
    """Write one set of inputs and reference outputs as `input.<name>` and `output.<name>`.

    The file is an ordinary `.npz` (`numpy.load` reads it); members are stored in the order of the declaration. `packed`
    is for tensors that are mostly zeros; those of real frames gain nothing by it.

    Raises:
        ValueError: a tensor is missing, not declared, or of another shape or dtype than declared.
    """
    arrays = dict(_matched(spec.inputs, inputs, "input")) | dict(_matched(spec.outputs, outputs, "output"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
    return path


def read_fixture(path: Path, spec: GraphSpec) -> tuple[dict[str, Array], dict[str, Array]]:
    """Read inputs and reference outputs back.

    Raises:
        UserError: the file is missing, damaged, or made for another graph.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; export the bundle again, which writes it.") from error
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is damaged ({reason}); export the bundle again, which writes it.") from error
    try:
        return _side(arrays, "input", spec.inputs), _side(arrays, "output", spec.outputs)
    except ValueError as error:
        raise UserError(
            f"{path} was made for another graph than {spec.name}: {error} Export the bundle again."
        ) from error


def _side(arrays: Mapping[str, Array], side: str, declared: tuple[TensorSpec, ...]) -> dict[str, Array]:
    given = {name.removeprefix(f"{side}."): array for name, array in arrays.items() if name.startswith(f"{side}.")}
    return {name.removeprefix(f"{side}."): array for name, array in _matched(declared, given, side)}


def _matched(declared: tuple[TensorSpec, ...], given: Mapping[str, Array], side: str) -> Iterator[tuple[str, Array]]:
    names = [tensor.name for tensor in declared]
    if set(names) != set(given):
        raise ValueError(f"{side} tensors are {sorted(given)}, declared are {sorted(names)}.")
    rows = rows_of(declared, given)
    for tensor in declared:
        array, shape = np.asarray(given[tensor.name]), tensor.sized(rows)
        if array.shape != shape or array.dtype != tensor.dtype:
            found, wanted = f"{array.dtype} {list(array.shape)}", f"{tensor.dtype} {list(shape)}"
            raise ValueError(f"{side} '{tensor.name}' is {found}, declared is {wanted}.")
        yield f"{side}.{tensor.name}", array
