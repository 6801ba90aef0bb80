"""The one way to weights: a checkpoint that the user names, or random numbers that the user asks for."""

from __future__ import annotations

from torch import Tensor

from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError
from sttm_export.weights.checkpoint import digest, load_checkpoint
from sttm_export.weights.random import random_state


def load_vision_encoder(
    model: ModelSpec, weights: str | None, random_seed: int | None, tower_weights: str | None = None
) -> tuple[dict[str, Tensor], WeightSource]:
    """Return the canonical state of the model's vision encoder and where it came from.

    Args:
        model: what to load.
        weights: directory or hub id of a checkpoint.
        random_seed: seed of random weights, instead of `weights`.
        tower_weights: directory or hub id of the tower, for a checkpoint that has none.

    Raises:
        UserError: neither or both of weights and seed, or anything wrong with the checkpoint.
    """
    if weights is None and random_seed is None:
        raise UserError(
            f"No weights for {model.name}: give --weights DIR_OR_HUB_ID (published: {model.hub_id}), "
            "or --random-weights SEED to try the pipeline without a checkpoint."
        )
    if weights is not None and random_seed is not None:
        raise UserError("--weights and --random-weights exclude each other; give one of them.")
    if weights is not None:
        return load_checkpoint(model, weights, tower_weights)
    if tower_weights is not None:
        raise UserError("--tower-weights needs --weights: random weights have a random tower; leave it out.")
    return _random(model, random_seed or 0)


def _random(model: ModelSpec, seed: int) -> tuple[dict[str, Tensor], WeightSource]:
    if not 0 <= seed < 2**63:
        raise UserError(f"--random-weights {seed} is no seed; give a number from 0 to {2**63 - 1}.")
    state = random_state(model, seed)
    return state, WeightSource("random", "random", digest(state), seed=seed)
