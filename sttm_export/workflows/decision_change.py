"""What merging makes of int8 features, beside what it makes of float ones: a measurement, not a gate."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.quantization import DecisionChange
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.part import Arrays
from sttm_export.families.token_merger import token_merger
from sttm_export.runtime.fidelity import fidelity
from sttm_export.runtime.pipeline import merger_inputs
from sttm_export.validation.metrics import compare, encode_float

Floats = NDArray[np.floating]


def decision_change(recipe: Recipe, float_features: Floats, int8_features: Floats) -> DecisionChange:
    """Merge a clip twice, by the static module, and hold one against the other.

    Each solves its own thresholds where the policy is `budget`, as it would in use. A cell is decided otherwise where
    its token has another box, or stands for another number of cells.

    Args:
        recipe: of the export; the features are merged as its token merger would, whatever layer it stands at.
        float_features: [T', N, C] of the float encoder.
        int8_features: the same of the int8 one.
    """
    plain, other = (_merged(recipe, features) for features in (float_features, int8_features))
    count = len(float_features)
    assigned, moved = (cast("NDArray[np.integer]", made["assignment"])[:count] for made in (plain, other))
    decided = [_of_cells(made, cells) for made, cells in ((plain, assigned), (other, moved))]
    unmerged = cast("Floats", plain["tokens"])[assigned]
    kept = fidelity(unmerged, cast("Floats", other["tokens"]), moved)
    features = compare(int8_features, float_features)
    return DecisionChange(
        frames=count,
        cells=assigned.size,
        cells_differing=int((decided[0] != decided[1]).any(-1).sum()),
        tokens_float=int(plain["num_tokens"]),
        tokens_int8=int(other["num_tokens"]),
        features_relative=encode_float(features.relative_frobenius),
        features_sqnr_db=encode_float(features.sqnr_db),
        moved_relative=encode_float(kept.relative_error),
        moved_cosine=encode_float(kept.cosine),
    )


def _merged(recipe: Recipe, features: Floats) -> Arrays:
    part, limits = token_merger(recipe), recipe.thresholds
    inputs = merger_inputs(part.graph, features, len(features), limits.spatial, limits.temporal)
    return part.eager({})(inputs, {})


def _of_cells(made: Arrays, assigned: NDArray[np.integer]) -> NDArray[np.integer]:
    """[T', N, 6]: box of each cell's token, and the cells it stands for."""
    boxes, sizes = (cast("NDArray[np.integer]", made[name])[assigned] for name in ("token_box", "token_patches"))
    return np.concatenate([boxes, sizes[..., None]], axis=-1)


def change_in_words(change: DecisionChange) -> str:
    """One line."""
    cells = f"{change.cells_differing} of {change.cells} cells decided otherwise than on float features"
    tokens = f"{change.tokens_int8} tokens for {change.tokens_float}"
    moved = f"moved by {float(change.moved_relative):.2%} (cosine {float(change.moved_cosine):.5f})"
    return f"{cells}, {tokens}, {moved}; features {float(change.features_sqnr_db):.1f} dB"
