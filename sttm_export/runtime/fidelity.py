"""How much of a clip's features merging keeps: every cell gets the token it went to, and is held against itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Fidelity:
    """Unmerged tokens against the features they stand for; T' = frames."""

    relative_error: float  # norm of all differences over the norm of all features
    cosine: float  # mean over cells of the cosine of a cell and its token; 1 for two zero vectors, 0 for one
    error_of_frame: NDArray[np.float64]  # [T'], relative error within each frame
    cosine_of_frame: NDArray[np.float64]  # [T'], mean cosine within each frame


def fidelity(features: Floats, tokens: Floats, assignment: NDArray[np.integer]) -> Fidelity:
    """Hold `tokens[assignment]` against the features, frame by frame, in float64.

    Args:
        features: [T', N, C].
        tokens: [n, C].
        assignment: [T', N], the token of each cell.
    """
    frames = len(features)
    differences, norms, cosines = (np.zeros(frames) for _ in range(3))
    for frame in range(frames):
        cells = np.asarray(features[frame], np.float64)
        given = np.asarray(tokens[assignment[frame]], np.float64)
        differences[frame] = np.square(given - cells).sum()
        norms[frame] = np.square(cells).sum()
        cosines[frame] = _cosines(cells, given).mean()
    return Fidelity(
        relative_error=float(_relative(differences.sum(), norms.sum())),
        cosine=float(cosines.mean()),
        error_of_frame=_relative(differences, norms),
        cosine_of_frame=cosines,
    )


def _relative(differences: NDArray[np.float64] | np.float64, norms: NDArray[np.float64] | np.float64):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Square root of the ratio; 0 where both are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(differences == 0.0, 0.0, np.sqrt(np.divide(differences, norms)))


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N]: of rows of two arrays [N, C]."""
    products = np.einsum("nc,nc->n", left, right)
    sizes = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = ~left.any(axis=1) & ~right.any(axis=1)
    return np.where(both_zero, 1.0, np.divide(products, sizes, out=np.zeros_like(products), where=sizes > 0.0))
