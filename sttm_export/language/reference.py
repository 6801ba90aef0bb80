"""The oracle of the language model: `transformers`' own Qwen2, layer by layer, with the published merging in between.

Dynamic shapes, float32, a cache that grows; it shares with the exported graphs only how positions are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.language.positions import Policy, Prompt, merged_positions, next_position, prompt_positions
from sttm_export.language.rotary import rotary_tables
from sttm_export.merging.reference import merge


@dataclass(frozen=True)
class Merging:
    """Where and how the video's tokens merge."""

    layer: int  # at whose input; 0: the embeddings
    merge: MergeSpec  # root level and similarity; its budget is not read
    thresholds: tuple[float, float]  # spatial, temporal
    policy: Policy


@dataclass(frozen=True)
class Prefilled:
    """What a prompt left behind."""

    logits: Tensor  # [V] float32, for the first token
    tokens: Tensor  # [n, C] float32, merged hidden states at the input of the merge layer
    boxes: Tensor  # [n, 5] int64
    position: int  # of the first decoded token


class ReferenceDecoder:
    """A language model that is asked one prompt, then steps token by token.

    Args:
        spec: sizes.
        state: float tensors by canonical name (`language/checkpoint.py`).
    """

    def __init__(self, spec: DecoderSpec, state: Mapping[str, Tensor]) -> None:
        from transformers import Qwen2Config, Qwen2Model
        from transformers.cache_utils import DynamicCache

        config = Qwen2Config(
            hidden_size=spec.hidden_size,
            intermediate_size=spec.intermediate_size,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.kv_heads,
            vocab_size=spec.vocabulary,
            rms_norm_eps=spec.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
            attn_implementation="eager",
        )
        with torch.device("meta"):
            model: Any = Qwen2Model(config)
        inner = {name.removeprefix("language."): tensor.float() for name, tensor in state.items()}
        self._head, inner["embed_tokens.weight"] = inner.pop("head.weight"), inner.pop("embed.weight")
        model.load_state_dict(inner, assign=True)
        self._model, self._spec, self._cache = model.eval(), spec, DynamicCache(config=config)

    def prefill(
        self, system: NDArray[np.int64], video: Tensor, question: NDArray[np.int64], prompt: Prompt, merging: Merging
    ) -> Prefilled:
        """Run the prompt [system ids][video embeddings, [T·N, C]][question ids]."""
        embed = self._model.embed_tokens.weight
        hidden = torch.cat([embed[torch.from_numpy(system)], video, embed[torch.from_numpy(question)]])
        positions = whole = prompt_positions(prompt, merging.policy)
        tokens, boxes = torch.empty(0), torch.empty(0)
        with torch.no_grad():
            for layer in range(self._spec.layers):
                if layer == merging.layer:
                    merged = self._merge(hidden[prompt.system :][: prompt.video], prompt, merging)
                    tokens, boxes = merged.tokens, merged.boxes
                    behind = hidden[prompt.system + prompt.video :]
                    hidden = torch.cat([hidden[: prompt.system], tokens, behind])
                    cells = (boxes[:, 0] * prompt.height + boxes[:, 1]) * prompt.width + boxes[:, 2]
                    positions = merged_positions(whole, prompt, cells.numpy(), merging.policy)
                hidden = self._layer(layer, hidden, positions)
            return Prefilled(self._logits(hidden), tokens, boxes, next_position(whole))

    def step(self, token: int, position: int) -> Tensor:
        """Feed one token back; return the logits [V] of the next."""
        rows = 3 if self._spec.mrope_section else 1
        with torch.no_grad():
            hidden = self._model.embed_tokens.weight[[token]]
            for layer in range(self._spec.layers):
                hidden = self._layer(layer, hidden, np.full((rows, 1), position))
            return self._logits(hidden)

    def key_lengths(self) -> list[int]:
        """Keys that each layer holds."""
        return [int(self._cache.get_seq_length(layer)) for layer in range(self._spec.layers)]

    def _merge(self, video: Tensor, prompt: Prompt, merging: Merging) -> Any:
        grid = video.reshape(prompt.frames, prompt.height, prompt.width, -1).permute(0, 3, 1, 2)
        spec = merging.merge
        return merge(
            grid,
            *merging.thresholds,
            root_level=spec.root_level,
            weighted_avg=spec.weighted_avg,
            head_dim=spec.head_dim,
        )

    def _layer(self, layer: int, hidden: Tensor, positions: NDArray[np.int64]) -> Tensor:
        new, past = len(hidden), int(self._cache.get_seq_length(layer))
        mask = torch.full((new, past + new), -torch.inf).triu(past + 1)
        tables = tuple(torch.from_numpy(table)[None] for table in rotary_tables(self._spec, positions))
        made: Tensor = self._model.layers[layer](
            hidden[None],
            attention_mask=mask[None, None],
            position_embeddings=tables,
            cache=self._cache,
            use_cache=True,
        )
        return made[0]

    def _logits(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self._model.norm(hidden[-1:])
        return normed[0] @ self._head.T
