"""A clip's features, and where they are from in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sttm_export.errors import UserError


@dataclass(frozen=True)
class Source:
    """Who made features."""

    name: str
    title: str  # a few words for a table
    trained: bool  # whether by a network that was trained
    what: str  # a sentence or two


@dataclass(frozen=True)
class Clip:
    """Features of one clip."""

    source: Source
    name: str
    features: NDArray[np.float32]  # [T, H, W, C]


def read_features(path: Path) -> NDArray[np.float32]:
    """Read [T, H, W, C] from an .npz with `features` [T, C, H, W], as those of tests/golden have it.

    Raises:
        UserError: no such file, or no such array in it.
    """
    advice = "give an .npz with `features` [T, C, H, W]"
    try:
        with np.load(path, allow_pickle=False) as data:
            found = data["features"]
    except (OSError, ValueError, KeyError, AttributeError, EOFError) as error:
        raise UserError(f"{path} is not a features file ({error}); {advice}.") from error
    if found.ndim != 4 or not np.issubdtype(found.dtype, np.floating) or 0 in found.shape:
        raise UserError(f"{path} has `features` {found.dtype} {list(found.shape)}; {advice}.")
    features = np.ascontiguousarray(found.transpose(0, 2, 3, 1), np.float32)
    if not np.isfinite(features).all():
        raise UserError(f"{path} has features that are not finite, which no error can be told of; {advice}.")
    return features
