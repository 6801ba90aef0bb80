"""The layers below the merge layer without the rest of the language model: what they make is what merges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import numpy as np

from sttm_export.contracts.decoding import EMBEDDINGS, TOKENIZER
from sttm_export.language.before import rows_before
from sttm_export.language.positions import Policy, Prompt, prompt_positions
from sttm_export.language.rows import Told, rows_through, shares
from sttm_export.pipeline.loader import Loader
from sttm_export.runtime.resident import Floats, Vision
from sttm_export.runtime.session import StatefulSession

Open = Callable[[str], StatefulSession]


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
    with ExitStack() as stack:

        def alone(name: str) -> StatefulSession:
            stack.close()
            return stack.enter_context(loader.open(name))

        return _through(loader, _before(loader), alone, features, told)


@contextmanager
def whole_vision(loader: Loader) -> Iterator[Vision]:
    """Load all that makes merged tokens of frames, and free it at the end of the block.

    The layers below the merge layer are part of it where there are any; the first window loads them, and they stay.

    Raises:
        UserError: a graph cannot be loaded, or there is no memory for it.
    """
    if loader.bundle.manifest.recipe.merge_layer == 0:
        with loader.vision() as vision:
            yield vision
        return
    # The same for every window, and a tokenizer takes longer to parse than a window may.
    before = _before(loader)
    with ExitStack() as stack:
        sessions: dict[str, StatefulSession] = {}

        def kept(name: str) -> StatefulSession:
            if name not in sessions:
                sessions[name] = stack.enter_context(loader.open(name))
            # Nothing of an earlier window is left behind the rows of this one.
            sessions[name].reset()
            return sessions[name]

        def below(features: Floats) -> Floats:
            return _through(loader, before, kept, features, lambda _name, _share: None)

        yield stack.enter_context(loader.vision(below))


def _before(loader: Loader) -> Floats:
    """Embeddings of the text before a video, [S0, C]."""
    loader.verify(EMBEDDINGS, TOKENIZER)
    return rows_before(loader.bundle.path, loader.bundle.manifest.recipe)


def _through(loader: Loader, before: Floats, open_group: Open, features: Floats, told: Told) -> Floats:
    bundle, recipe, grid = loader.bundle, loader.bundle.manifest.recipe, loader.bundle.model.grid
    hidden = np.concatenate([before, features.reshape(-1, features.shape[-1]).astype(np.float32)])
    prompt = Prompt(len(before), len(features), grid.height, grid.width, 0)
    positions = prompt_positions(prompt, cast("Policy", bundle.model.merging.positions))
    names = [recipe.group_graph(span).name for span in recipe.below]
    for place, name in enumerate(names):
        tell = shares(told, name, place, len(names))
        hidden = rows_through(open_group(name), recipe.decoder, hidden, positions, 0, tell)
    return hidden[len(before) :].reshape(features.shape)
