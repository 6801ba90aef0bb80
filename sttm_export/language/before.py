"""The text before a video, as a bundle has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
from sttm_export.contracts.recipe import Recipe
from sttm_export.language.embeddings import read_embeddings
from sttm_export.language.tokenizer import read_tokenizer


def rows_before(directory: Path, recipe: Recipe) -> NDArray[np.float32]:
    """Return the embeddings of the text before a video, [S0, C], from the files of a bundle.

    Raises:
        UserError: one of them is missing or damaged.
    """
    ids = read_tokenizer(directory / TOKENIZER, recipe.decoder.vocabulary).encode(recipe.prompt.before, special=True)
    return np.asarray(read_embeddings(directory / EMBEDDINGS, recipe)[ids], np.float32)
