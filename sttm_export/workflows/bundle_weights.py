"""The weights a bundle was made of, read again for a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sttm_export.bundle.opened import Bundle
from sttm_export.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def load_bundle_weights(
    bundle: Bundle, weights: str | None, tower_weights: str | None, otherwise: str
) -> dict[str, Tensor]:
    """Return the canonical state that the bundle's encoder was exported with.

    Args:
        bundle: opened; random weights are made again from its seed.
        weights: directory or hub id of its checkpoint.
        tower_weights: the tower's own checkpoint, if it was given.
        otherwise: what to do without a checkpoint, for the message.

    Raises:
        UserError: the checkpoint is missing, or these are other weights than the bundle's.
    """
    from sttm_export.weights.loading import load_vision_encoder

    made_of = bundle.weights
    if not made_of.is_random and weights is None:
        raise UserError(
            f"The reference needs the checkpoint {made_of.identifier}: give it with --weights, or {otherwise}."
        )
    state, source = load_vision_encoder(bundle.model, weights, made_of.seed if weights is None else None, tower_weights)
    if source.sha256 != made_of.sha256:
        raise UserError(
            f"These are not the weights the bundle was made of (sha256 {source.sha256[:16]}…, recorded "
            f"{made_of.sha256[:16]}…); give the checkpoint {made_of.identifier}."
        )
    return state
