"""The one way to weights: a checkpoint that the user names, or random numbers that the user asks for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.prompt import PromptSpec
from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError
from sttm_export.families.registry import family_of
from sttm_export.language import checkpoint as language
from sttm_export.weights.checkpoint import Checkpoint
from sttm_export.weights.layout import Shape
from sttm_export.weights.random import RandomWeights

if TYPE_CHECKING:
    from torch import Tensor


class Weights(Protocol):
    """Parameters that are read part by part, and what turns text into ids for them."""

    @property
    def source(self) -> WeightSource:
        """Where they come from."""
        ...

    def read(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """Return these parameters by canonical name, in their order."""
        ...

    def tokenizer(self, spec: DecoderSpec, prompt: PromptSpec) -> bytes:
        """Return a `tokenizer.json` for a decoder, which has all tokens of the prompt."""
        ...


def open_weights(
    model: ModelSpec,
    shapes: Mapping[str, Shape],
    weights: str | None,
    random_seed: int | None,
    tower_weights: str | None = None,
) -> Weights:
    """Open a checkpoint, or random weights.

    Args:
        model: what they are of.
        shapes: all parameters that will be read.
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
    family = family_of(model)
    if weights is not None:
        return Checkpoint(model.name, family.checkpoint(model), shapes, weights, tower_weights)
    if tower_weights is not None:
        raise UserError("--tower-weights needs --weights: random weights have a random tower; leave it out.")
    return RandomWeights(partial(_distribution, model), random_seed or 0)


def _distribution(model: ModelSpec, name: str, shape: Shape) -> tuple[float, float]:
    """The decoder's, which is the same in all families, or the family's own."""
    if model.decoder and name.startswith(language.LANGUAGE):
        return language.distribution(model.decoder, name, shape)
    return family_of(model).distribution(model, name, shape)
