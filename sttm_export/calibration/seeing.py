"""The model in PyTorch and float32, up to where its tokens merge: a clip's pixels → what merges, and what was seen."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sttm_export.contracts.graph import TOKEN_MERGER
from sttm_export.contracts.recipe import Recipe
from sttm_export.errors import UserError
from sttm_export.families.modules import as_stage
from sttm_export.families.part import Part
from sttm_export.families.registry import parts_of
from sttm_export.families.stage_session import StageSession
from sttm_export.families.weights import open_weights
from sttm_export.language.checkpoint import embedding_shapes
from sttm_export.language.rows import Told, shares
from sttm_export.language.tokenizer import Tokenizer
from sttm_export.quantization.points import Point
from sttm_export.quantization.statistics import ActivationStatistics, collecting
from sttm_export.runtime.finiteness import nonfinite
from sttm_export.terminal import Advance
from sttm_export.weights.checkpoint import digest
from sttm_export.weights.layout import Shape
from sttm_export.weights.tokenizer_file import load_tokenizer

Floats = NDArray[np.float32]


def seen_parts(recipe: Recipe) -> list[Part]:
    """Parts before the token merger: the vision encoder and, with a merge layer above 0, groups of decoder layers."""
    return list(takewhile(lambda part: part.name != TOKEN_MERGER, parts_of(recipe)))


@dataclass(frozen=True)
class _Loaded:
    part: Part
    module: nn.Module
    session: StageSession


class Eyes:
    """The loaded model.

    Args:
        recipe: of precision fp32, with a batch of one step, so that no frame is seen twice to fill a batch.
        weights: directory or hub id of a checkpoint.
        random_seed: seed of random weights, instead of `weights`.
        tower_weights: directory or hub id of the tower.
        advance: told what is read.

    Raises:
        UserError: anything wrong with the weights.
    """

    def __init__(
        self, recipe: Recipe, weights: str | None, random_seed: int | None, tower_weights: str | None, advance: Advance
    ) -> None:
        parts, layer = seen_parts(recipe), recipe.merge_layer
        shapes: dict[str, Shape] = embedding_shapes(recipe.decoder) if layer else {}
        shapes |= {name: shape for part in parts for name, shape in part.shapes.items()}
        opened = open_weights(recipe.model, shapes, weights, random_seed, tower_weights)
        self.source, self.digests, self._loaded = opened.source, list[str](), list[_Loaded]()
        for part in parts:
            advance(f"weights of the {part.name.replace('_', ' ')}", None)
            state = opened.read(part.shapes)
            self.digests.append(digest(state))
            module = part.module(state).float()
            self._loaded.append(_Loaded(part, module, StageSession(as_stage(module, part.graph), part.graph)))
            # What was read has half as many bytes as what became of it.
            del state
            gc.collect()
        self._system = np.zeros((0, recipe.model.channels), np.float32)
        if layer:
            advance("embeddings", None)
            ids = _tokenizer(opened.tokenizer(recipe.decoder, recipe.prompt), recipe).encode(
                recipe.prompt.before, special=True
            )
            (table,) = opened.read(embedding_shapes(recipe.decoder)).values()
            self._system = table[ids].float().numpy()

    @property
    def encoder(self) -> nn.Module:
        """The vision encoder, float32."""
        return self._loaded[0].module

    @property
    def points(self) -> tuple[Point, ...]:
        """Of the vision encoder."""
        return self._loaded[0].part.points

    @property
    def weights(self) -> dict[str, Tensor]:
        """The vision encoder's, by canonical name, float32."""
        return dict(self.encoder.named_parameters())

    def see(self, name: str, key: str, pixels: Floats, told: Told) -> tuple[Floats, ActivationStatistics]:
        """Run a clip through the model.

        Args:
            name: of the clip, for messages.
            key: its sha256.
            pixels: [n, 3, H, W], n a multiple of the frames of a step.
            told: called with what runs and the share that is done.

        Returns:
            What merges, [T', N, C], and what was seen at the encoder's points.

        Raises:
            UserError: the model makes of it what is not finite.
        """
        clip: dict[str, NDArray[np.generic]] = {"pixel_values": pixels, "system": self._system}
        count = len(self._loaded)
        with collecting(self.encoder, self.points) as collector:
            for place, loaded in enumerate(self._loaded):
                share = shares(told, loaded.part.name.replace("_", " "), place, count)
                clip |= loaded.part.forward(loaded.session, clip, share)
        features = cast("Floats", clip["features"])
        if fault := nonfinite(features):
            raise UserError(
                f"Of {name} the model makes features of which {fault}, although all of its weights are finite; check "
                "that --weights are those of --model."
            )
        return features, collector.finish(key)


def _tokenizer(data: bytes, recipe: Recipe) -> Tokenizer:
    source = "the checkpoint's tokenizer"
    loaded = load_tokenizer(data, source, "download it again", recipe.decoder.vocabulary)
    return Tokenizer(loaded, source)
