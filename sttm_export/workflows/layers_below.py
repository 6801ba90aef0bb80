"""The layers below the merge layer without the rest of the language model: what they make is what merges."""

from __future__ import annotations

from typing import cast

import numpy as np

from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
from sttm_export.language.embeddings import read_embeddings
from sttm_export.language.positions import Policy, Prompt, prompt_positions
from sttm_export.language.rows import Floats, rows_through
from sttm_export.language.tokenizer import read_tokenizer
from sttm_export.terminal import Advance
from sttm_export.workflows.viewing import Features, Loader


def run_layers_below(loader: Loader, features: Features, advance: Advance) -> Floats:
    """Run [text before the video][video] through the layers below the merge layer, one group in memory at a time.

    Text behind the video is left out: attention is causal, so the video never sees it.

    Args:
        loader: of a bundle with a merge layer above 0.
        features: [T', N, C] embeddings of the video.
        advance: told which group runs.

    Returns:
        The video's hidden states, [T', N, C] float32.
    """
    bundle, recipe = loader.bundle, loader.bundle.manifest.recipe
    tokenizer = read_tokenizer(bundle.path / TOKENIZER, recipe.decoder.vocabulary)
    before = tokenizer.encode(recipe.prompt.before, special=True)
    table = read_embeddings(bundle.path / EMBEDDINGS, recipe)
    hidden = np.concatenate([table[before], features.reshape(-1, features.shape[-1])]).astype(np.float32)
    prompt = Prompt(len(before), len(features), bundle.model.grid.height, bundle.model.grid.width, 0)
    positions = prompt_positions(prompt, cast("Policy", bundle.model.merging.positions))
    for place, span in enumerate(recipe.below):
        name = recipe.group_graph(span).name
        advance(name, place / len(recipe.below))
        with loader.open(name) as session:
            hidden = rows_through(session, recipe.decoder, hidden, positions, 0)
    return hidden[len(before) :].reshape(features.shape)
