"""What the merger of a bundle really reads: features of videos, or hidden states where it merges inside the decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bench.sources.clip import Clip, Source
from sttm_export.bundle.opened import open_bundle
from sttm_export.pipeline.layers_below import run_layers_below
from sttm_export.terminal import Steps
from sttm_export.workflows.viewing import Viewing, decode, encode, open_loader


def clips(directory: Path, videos: Iterable[Path]) -> Iterator[Clip]:
    """Run a bundle's graphs by ONNX Runtime, sampled as the model was evaluated.

    Raises:
        UserError: no bundle, or a video that cannot be read.
    """
    bundle = open_bundle(directory)
    layer, grid = bundle.manifest.recipe.merge_layer, bundle.model.grid
    where = f"hidden states at the input of decoder layer {layer}" if layer else "projected features"
    source = Source(
        "bundle",
        f"{bundle.model.name}",
        trained=not bundle.weights.is_random,
        what=f"{where} of {bundle.model.title}: {bundle.weights.describe()}",
    )
    viewing = Viewing()
    loader = open_loader(bundle, viewing)
    for video in videos:
        steps = Steps(3 if layer else 2)
        features = encode(loader, decode(bundle, video, viewing, steps), steps)
        if layer:
            with steps.step("Run the layers below") as advance:
                features = run_layers_below(loader, features, advance)
        cells = np.asarray(features, np.float32)
        yield Clip(source, video.stem, cells.reshape(len(cells), grid.height, grid.width, -1))
