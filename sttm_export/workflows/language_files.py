"""What a bundle with a language model holds beside graphs: the table of embeddings, and what makes ids of text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
from sttm_export.contracts.graph import FLOAT_OF
from sttm_export.contracts.recipe import Recipe

if TYPE_CHECKING:
    from sttm_export.families.weights import Weights

# Rows that are converted at a time, so that the table is in memory once.
_ROWS = 8192


def write_language_files(directory: Path, recipe: Recipe, weights: Weights) -> str:
    """Write table and tokenizer into a bundle that is being made.

    Returns:
        sha256 of the table's weights.

    Raises:
        UserError: no tokenizer or none that fits, or embeddings that are damaged or that float16 cannot hold.
    """
    import torch

    from sttm_export.families.modules import check_fits
    from sttm_export.language.checkpoint import embedding_shapes
    from sttm_export.weights.checkpoint import digest

    (directory / TOKENIZER).write_bytes(weights.tokenizer(recipe.decoder, recipe.prompt))
    state = weights.read(embedding_shapes(recipe.decoder))
    ((name, table),) = state.items()
    dtype = FLOAT_OF[recipe.precision]
    check_fits(name, table, getattr(torch, dtype))
    file = np.lib.format.open_memmap(directory / EMBEDDINGS, "w+", dtype, tuple(table.shape))
    for start in range(0, len(table), _ROWS):
        file[start : start + _ROWS] = table[start : start + _ROWS].float().numpy()
    file.flush()
    return digest(state)
