"""The oracle of the language model: `transformers`' own Qwen2, layer by layer, with the published merging in between.

Dynamic shapes, float32, a cache that grows; it shares with the exported graphs only how positions are counted.
`ReferenceDecoder` is a whole model that is asked. `ReferenceGroup` and `reference_head` stand for one graph each, with
its inputs and outputs, so that every part is judged on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.language.positions import Policy, Prompt, cells_of, merged_positions, next_position, prompt_positions
from sttm_export.language.rotary import rotary_tables
from sttm_export.merging.reference import merge


@dataclass(frozen=True)
class Merging:
    """Where and how the video's tokens merge."""

    layer: int  # at whose input; 0: the embeddings
    merge: MergeSpec  # root level and similarity; its budget is not read
    thresholds: tuple[float, float]  # spatial, temporal; with the policy `budget` those that were solved
    policy: Policy


@dataclass(frozen=True)
class Prefilled:
    """What a prompt left behind."""

    logits: Tensor  # [V] float32, for the first token
    video: Tensor  # [T·N, C] float32, hidden states of the video at the input of the merge layer
    tokens: Tensor  # [n, C] float32, merged hidden states at the input of the merge layer
    boxes: Tensor  # [n, 5] int64
    position: int  # of the first decoded token


class ReferenceGroup(nn.Module):
    """Layers `first` to `last` - 1 behind the interface of their graph (`contracts/decoding.py`).

    Args:
        spec: of the whole decoder.
        state: float tensors by canonical name; those of other layers are not read, float32 ones are shared.
        first: its first layer.
        last: one past its last layer.
    """

    def __init__(self, spec: DecoderSpec, state: Mapping[str, Tensor], first: int, last: int) -> None:
        super().__init__()
        self.layers = layers_of(spec, state, first, last)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        """Run S rows through the layers; all of them must fit into the buffers.

        Args:
            hidden: [S, C] float32, the residual stream.
            cos: [S, D] float32.
            sin: [S, D] float32.
            slots: [S] int32, consecutive; the buffers' slots before the first of them are the past.
            buffers: keys and values of each layer in turn, [G, M, D] float32 each.

        Returns:
            The residual stream [S, C], and the buffers with the rows written.
        """
        from transformers.cache_utils import DynamicCache

        cache: Any = DynamicCache()
        past = int(slots[0])
        with torch.no_grad():
            for index, (layer, keys, values) in enumerate(zip(self.layers, buffers[::2], buffers[1::2], strict=True)):
                cache.update(keys[None, :, :past], values[None, :, :past], index)
                hidden = through(layer, hidden, (cos, sin), cache, past)
        grown = [tensor[0] for layer in cache.layers for tensor in (layer.keys, layer.values)]
        written = (torch.cat([new, old[:, new.shape[1] :]], 1) for new, old in zip(grown, buffers, strict=True))
        return hidden, *written


class ReferenceDecoder:
    """A language model that is asked one prompt, then steps token by token.

    Args:
        spec: sizes.
        state: float tensors by canonical name (`language/checkpoint.py`).
    """

    def __init__(self, spec: DecoderSpec, state: Mapping[str, Tensor]) -> None:
        from transformers.cache_utils import DynamicCache

        self._embeddings = state["language.embed.weight"].float()
        self._layers, self._head = layers_of(spec, state, 0, spec.layers), reference_head(spec, state)
        self._spec, self._cache = spec, DynamicCache()

    def prefill(
        self, system: NDArray[np.int64], video: Tensor, question: NDArray[np.int64], prompt: Prompt, merging: Merging
    ) -> Prefilled:
        """Run the prompt [system ids][video embeddings, [T·N, C]][question ids]."""
        embed = self._embeddings
        hidden = torch.cat([embed[torch.from_numpy(system)], video, embed[torch.from_numpy(question)]])
        positions = whole = prompt_positions(prompt, merging.policy)
        unmerged, tokens, boxes = torch.empty(0), torch.empty(0), torch.empty(0)
        with torch.no_grad():
            for layer in range(self._spec.layers):
                if layer == merging.layer:
                    unmerged = hidden[prompt.system :][: prompt.video]
                    merged = self._merge(unmerged, prompt, merging)
                    tokens, boxes = merged.tokens, merged.boxes
                    behind = hidden[prompt.system + prompt.video :]
                    hidden = torch.cat([hidden[: prompt.system], tokens, behind])
                    positions = merged_positions(whole, prompt, cells_of(boxes.numpy(), prompt), merging.policy)
                hidden = self._layer(layer, hidden, positions)
            return Prefilled(self._logits(hidden), unmerged, tokens, boxes, next_position(whole))

    def step(self, token: int, position: int) -> Tensor:
        """Feed one token back; return the logits [V] of the next."""
        rows = 3 if self._spec.mrope_section else 1
        with torch.no_grad():
            hidden = self._embeddings[[token]]
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
            # A solved threshold of 0 or less still merges (rule 8.6).
            temporal_step=True if spec.policy == "budget" else None,
        )

    def _layer(self, layer: int, hidden: Tensor, positions: NDArray[np.int64]) -> Tensor:
        cos, sin = map(torch.from_numpy, rotary_tables(self._spec, positions))
        past = int(self._cache.get_seq_length(layer))
        return through(self._layers[layer], hidden, (cos, sin), self._cache, past)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden[-1:])
        return logits[0]


def reference_head(spec: DecoderSpec, state: Mapping[str, Tensor]) -> nn.Module:
    """Return norm and vocabulary behind the interface of the head's graph: [1, C] float32 → logits [1, V] float32."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    head = nn.Sequential()
    with torch.device("meta"):
        head.add_module("norm", Qwen2RMSNorm(spec.hidden_size, spec.rms_norm_eps))
        head.add_module("head", nn.Linear(spec.hidden_size, spec.vocabulary, bias=False))
    head.load_state_dict({name: state[f"language.{name}"].float() for name in head.state_dict()}, assign=True)
    return head.requires_grad_(False).eval()


def layers_of(spec: DecoderSpec, state: Mapping[str, Tensor], first: int, last: int) -> nn.ModuleList:
    """Layers `first` to `last` - 1 of `transformers`, numbered from 0 as their cache is."""
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

    config = Qwen2Config(
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=last - first,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        rms_norm_eps=spec.rms_norm_eps,
        attn_implementation="eager",
    )
    with torch.device("meta"):
        layers = nn.ModuleList(Qwen2DecoderLayer(config, index) for index in range(last - first))
    for index, layer in enumerate(layers):
        prefix = f"language.layers.{first + index}."
        # By name: a mapping may make its tensors when they are asked for.
        own = {name.removeprefix(prefix): state[name].float() for name in state if name.startswith(prefix)}
        layer.load_state_dict(own, assign=True)
    return layers.requires_grad_(False).eval()


def through(layer: nn.Module, hidden: Tensor, tables: tuple[Tensor, Tensor], cache: Any, past: int) -> Tensor:
    """Rows [S, C] with cosines and sines [S, D] through a layer, behind `past` rows in its cache."""
    mask = torch.full((len(hidden), past + len(hidden)), -torch.inf).triu(past + 1)
    batched = tuple(table[None] for table in tables)
    # By place: releases of transformers 5 call the cache by two names, and swallow the other one in silence.
    made: Tensor = layer(hidden[None], mask[None, None], None, cache, True, position_embeddings=batched)
    return made[0]
