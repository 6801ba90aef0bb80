"""The weights a bundle was made of, read again for a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sttm_export.bundle.opened import Bundle
from sttm_export.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from sttm_export.families.part import Part


def bundle_weights(
    bundle: Bundle, parts: tuple[Part, ...], weights: str | None, tower_weights: str | None, otherwise: str
) -> Callable[[Part], dict[str, Tensor]]:
    """Return what reads the parameters that a part of the bundle was exported with.

    Args:
        bundle: opened; random weights are made again from its seed.
        parts: all parts that will be read.
        weights: directory or hub id of its checkpoint.
        tower_weights: the tower's own checkpoint, if it was given.
        otherwise: what to do without a checkpoint, for the message.

    Raises:
        UserError: the checkpoint is missing; or, when a part is read, these are other weights than the bundle's.
    """
    from sttm_export.families.weights import open_weights
    from sttm_export.weights.checkpoint import digest

    made_of = bundle.weights
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
    if not shapes:
        return lambda _: {}
    if not made_of.is_random and weights is None:
        raise UserError(
            f"The reference needs the checkpoint {made_of.identifier}: give it with --weights, or {otherwise}."
        )
    opened = open_weights(bundle.model, shapes, weights, made_of.seed if weights is None else None, tower_weights)

    def read(part: Part) -> dict[str, Tensor]:
        state, recorded = opened.read(part.shapes), bundle.graph(part.name).weights_sha256
        if part.shapes and (found := digest(state)) != recorded:
            raise UserError(
                f"These are not the weights the bundle was made of (sha256 {found[:16]}…, recorded {recorded[:16]}…); "
                f"give the checkpoint {made_of.identifier}."
            )
        return state

    return read
