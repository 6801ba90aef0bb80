"""The layers below the merge layer without the rest of the language model: what they make is what merges."""

from __future__ import annotations

from typing import cast

import numpy as np

from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
from sttm_export.language.before import rows_before
from sttm_export.language.positions import Policy, Prompt, prompt_positions
from sttm_export.language.rows import Told, rows_through, shares
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.resident import Floats


def run_layers_below(loader: Loader, features: Floats, told: Told) -> Floats:
    """Run [text before the video][video] through the layers below the merge layer, one group in memory at a time.

    Text behind the video is left out: attention is causal, so the video never sees it.

    Args:
        loader: of a bundle with a merge layer above 0.
        features: [T', N, C] embeddings of the video.
        told: which group runs, and how far all of them are.

    Returns:
        The video's hidden states, [T', N, C] float32.
    """
    bundle, recipe = loader.bundle, loader.bundle.manifest.recipe
    loader.verify(EMBEDDINGS, TOKENIZER)
    before, grid = rows_before(bundle.path, recipe), bundle.model.grid
    hidden = np.concatenate([before, features.reshape(-1, features.shape[-1]).astype(np.float32)])
    prompt = Prompt(len(before), len(features), grid.height, grid.width, 0)
    positions = prompt_positions(prompt, cast("Policy", bundle.model.merging.positions))
    names = [recipe.group_graph(span).name for span in recipe.below]
    for place, name in enumerate(names):
        tell = shares(told, name, place, len(names))
        with loader.open(name) as session:
            hidden = rows_through(session, recipe.decoder, hidden, positions, 0, tell)
    return hidden[len(before) :].reshape(features.shape)
