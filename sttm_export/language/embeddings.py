"""The table of embeddings that a bundle carries: mapped, not loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import FLOAT_OF
from sttm_export.contracts.recipe import Recipe
from sttm_export.errors import UserError, first_line

Table = NDArray[np.floating]


def read_embeddings(path: Path, recipe: Recipe) -> Table:
    """Map the table, [V, C] in the export's precision; rows are read of the disk when they are looked up.

    Raises:
        UserError: missing, damaged, or another table than the recipe's decoder has.
    """
    if not path.is_file():
        raise UserError(f"There is no table of embeddings at {path}; copy the bundle anew, or export it again.")
    try:
        table: Table = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy reads a header as Python text, and raises whatever that may
        raise UserError(
            f"{path} is damaged ({first_line(error)}); copy the bundle anew, or export it again."
        ) from error
    spec, dtype = recipe.decoder, np.dtype(FLOAT_OF[recipe.precision])
    if table.shape != (spec.vocabulary, spec.hidden_size) or table.dtype != dtype or not table.flags.c_contiguous:
        raise UserError(
            f"{path} is {table.dtype} {list(table.shape)}, expected {dtype} {[spec.vocabulary, spec.hidden_size]}; "
            "copy the bundle anew, or export it again."
        )
    return table
