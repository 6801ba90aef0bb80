"""What is run while times are taken: real frames and their features, of the bundle's fixtures or of a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.contracts.model import PixelSpec
from sttm_export.errors import UserError
from sttm_export.graphs.fixtures import read_fixture
from sttm_export.pipeline.layers_below import run_layers_below
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.resident import Floats
from sttm_export.runtime.video import Pictures
from sttm_export.terminal import Steps
from sttm_export.timing.request import Request
from sttm_export.workflows.viewing import decode, encode, open_loader

Pixels = NDArray[np.floating]


@dataclass(frozen=True)
class Inputs:
    """A clip of T' steps, at every stage of its way."""

    frames: Pictures  # uint8 RGB, T' · frames_per_step of them, as a decoder leaves them in memory
    timestamps: NDArray[np.float64]  # seconds, of each frame
    duration: float  # seconds
    pixels: Pixels  # [B, 3, H, W], one call of the encoder
    features: Floats  # [T', N, C], what the language model reads first
    merging: Floats  # [T', N, C], what the token merger reads
    source: str  # where all that comes from, in a few words
    note: str = ""  # what has to be known of it

    @property
    def steps(self) -> int:
        """T'."""
        return len(self.merging)

    @property
    def size(self) -> str:
        """Sides of the first frame."""
        height, width = self.frames[0].shape[:2]
        return f"{width}×{height}"


def take_inputs(bundle: Bundle, request: Request, steps: Steps) -> Inputs:
    """Return what a bundle is timed on.

    Raises:
        UserError: unreadable video, or neither a video nor fixtures.
    """
    return _of_video(bundle, request, steps) if request.video is not None else _of_fixtures(bundle)


def back_and_forth(count: int, most: int) -> Iterator[int]:
    """Indices of so many frames out of `most` that are played forth and back: 0 1 2 1 0 1 …; no two alike in a row."""
    period = max(2 * (most - 1), 1)
    for place in range(count):
        step = place % period
        yield min(step, period - step) if most > 1 else 0


def rgb_of(values: Pixels, pixels: PixelSpec) -> NDArray[np.uint8]:
    """Pixel values [n, 3, H, W] as the frames that they were made of, at the model's resolution: [n, H, W, 3] uint8."""
    mean, std = (np.array(row, np.float32)[:, None, None] for row in (pixels.mean, pixels.std))
    shares = np.asarray(values, np.float32) * std + mean
    levels: NDArray[np.uint8] = np.clip(np.rint(shares * 255.0), 0, 255).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1)


def _of_fixtures(bundle: Bundle) -> Inputs:
    for name in (VISION_ENCODER, TOKEN_MERGER):
        if not bundle.fixture_path(name).is_file():
            raise UserError(
                f"{bundle.path} has no fixture of {name} (it was exported with --no-validation, or left behind), so "
                "there are no frames to measure on; give --video FILE."
            )
    encoder, _ = read_fixture(bundle.fixture_path(VISION_ENCODER), bundle.graph(VISION_ENCODER))
    merger, _ = read_fixture(bundle.fixture_path(TOKEN_MERGER), bundle.graph(TOKEN_MERGER))
    merging = merger["features"][: int(merger["num_frames"])]
    model, pixels = bundle.model, encoder["pixel_values"]
    real = rgb_of(pixels, model.pixels)
    order = list(back_and_forth(len(merging) * model.frames_per_step, len(real)))
    times = np.arange(len(order)) / model.sampling.fps
    note = f"The pipeline got {len(real)} frames of the fixtures at the model's resolution, played forth and back"
    return Inputs(
        frames=real[order],
        timestamps=times,
        duration=len(order) / model.sampling.fps,
        pixels=pixels,
        # Hidden states stand for embeddings where tokens merge above layer 0: a layer takes as long with either.
        features=merging,
        merging=merging,
        source="the bundle's fixtures",
        note=f"{note}; give --video FILE for frames of their own size.",
    )


def _of_video(bundle: Bundle, request: Request, steps: Steps) -> Inputs:
    assert request.video is not None, "who asks has looked"
    loader, model = open_loader(bundle, request), bundle.model
    video = decode(bundle, request.video, request, steps)
    features = encode(loader, video, steps)
    merging = features
    if bundle.manifest.recipe.merge_layer:
        with steps.step("Run the layers below the merge layer") as advance:
            merging = run_layers_below(loader, features, advance)
    graph = bundle.graph(VISION_ENCODER)
    batch = graph.inputs[0].shape[0]
    first = [video.frames[place] for place in back_and_forth(batch, len(video.frames))]
    return Inputs(
        frames=video.frames,
        timestamps=video.timestamps,
        duration=video.info.duration,
        pixels=pixel_values(first, model.pixels, model.frames_per_step).astype(graph.inputs[0].dtype),
        features=features,
        merging=merging,
        source=f"{len(video.frames)} frames of {request.video.name}",
    )
