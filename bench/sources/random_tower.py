"""The real tower of a model with random weights: its shapes and its context, and nothing that was learnt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.sources.clip import Source
from bench.sources.videos import Encode
from sttm_export.families.registry import load_model
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.video import Pictures

MODEL = "llava-video-7b"
SOURCE = Source(
    "siglip-random",
    "SigLIP, random weights",
    trained=False,
    what="projected features of the vision encoder of llava-video-7b with random weights, 3584 channels on 14×14 "
    "cells: right in shape, and nothing in them was learnt",
)


def encoder() -> Encode:
    """Make the encoder; about 2 GB."""
    import torch

    from sttm_export.families.llava.architecture import llava_of
    from sttm_export.families.llava.checkpoint import parameter_shapes
    from sttm_export.families.llava.encoder import VisionEncoder
    from sttm_export.families.weights import open_weights

    model = load_model(MODEL)
    shapes = parameter_shapes(llava_of(model))
    module = VisionEncoder(llava_of(model))
    module.load_state_dict(open_weights(model, shapes, None, 0).read(shapes))

    def encode(frames: Pictures) -> NDArray[np.floating]:
        pixels = torch.from_numpy(pixel_values(frames, model.pixels))
        with torch.inference_mode():
            cells = np.concatenate([module(one[None]).numpy() for one in pixels])
        return cells.reshape(len(cells), model.grid.height, model.grid.width, -1)

    return encode
