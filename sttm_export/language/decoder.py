"""A group of decoder layers that is exported: static K/V buffers, written in a range of slots, read causally.

Slots of a buffer are filled in the order of the prompt and never skipped; a row sees the slots up to its own. So no
mask is fed, rows behind the end of a short chunk do no harm (the next chunk overwrites their slots before anybody sees
them), and rows past the end of the buffer are dropped. The number S of rows is free: one graph, and its weights once,
for chunks of a prompt and for single tokens.

Norms, softmax, rotary turns and SiLU are computed in float32 through explicit casts, and so is the residual stream: it
reaches 10^4 in some channels, where float16 has steps of 8.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.contracts.decoder import DecoderSpec


class RMSNorm(nn.Module):
    """Root-mean-square norm over the channels of a float32 stream, scaled; returned in the weights' dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [S, C] float32."""
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)
        return (x * scale * self.weight.float()).to(self.weight.dtype)


class Attention(nn.Module):
    """Grouped-query attention of S new rows over a buffer of M slots.

    Query heads of a group are folded into rows, so that keys and values are never repeated in memory.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        width, inner = spec.hidden_size, spec.kv_heads * spec.head_dim
        self.groups, self.shared, self.head_dim = spec.kv_heads, spec.queries_per_key, spec.head_dim
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map rows [S, C] and buffers [G, M, D] to rows [S, C] and the buffers with those rows written."""
        groups, shared, width, slots_there = self.groups, self.shared, self.head_dim, keys.shape[1]
        # S is free in the graph; every reshape leaves it to -1.
        query = _turned(self.q_proj(x).reshape(-1, groups * shared, width), cos, sin)
        key = _turned(self.k_proj(x).reshape(-1, groups, width), cos, sin)
        value = self.v_proj(x).reshape(-1, groups, width)
        places = torch.arange(slots_there, dtype=torch.int32)
        keys = _written(keys, key.transpose(0, 1), places, slots)
        values = _written(values, value.transpose(0, 1), places, slots)
        # [S, G, R, D] → [G, S·R, D]: one product a group. The scale goes to the query, in float32: float16 scores would
        # overflow, and 1/sqrt(D) is no float16 number.
        query = (query.float() * width**-0.5).to(x.dtype)
        query = query.reshape(-1, groups, shared, width).transpose(0, 1).reshape(groups, -1, width)
        scores = torch.matmul(query, keys.transpose(1, 2)).float().reshape(groups, -1, shared, slots_there)
        seen = places <= slots.unsqueeze(1)  # [S, M]
        scores = torch.where(seen.unsqueeze(1), scores, torch.full((), -1e9))
        weights = torch.softmax(scores, dim=-1).to(x.dtype).reshape(groups, -1, slots_there)
        mixed = torch.matmul(weights, values).reshape(groups, -1, shared * width)
        return self.o_proj(mixed.transpose(0, 1).reshape(-1, groups * shared * width)), keys, values


class MLP(nn.Module):
    """down(SiLU(gate) · up)."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(spec.hidden_size, spec.intermediate_size, bias=False)
        self.up_proj = nn.Linear(spec.hidden_size, spec.intermediate_size, bias=False)
        self.down_proj = nn.Linear(spec.intermediate_size, spec.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [S, C] to [S, C]."""
        active = F.silu(self.gate_proj(x).float()).to(x.dtype)
        return self.down_proj(active * self.up_proj(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """One pre-norm layer; names of parameters are the published ones."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.self_attn = Attention(spec)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.mlp = MLP(spec)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map the residual stream [S, C] float32 and the layer's buffers; see `Attention`."""
        mixed, keys, values = self.self_attn(self.input_layernorm(x), cos, sin, slots, keys, values)
        x = x + mixed.float()
        return x + self.mlp(self.post_attention_layernorm(x)).float(), keys, values


class DecoderGroup(nn.Module):
    """Layers `first` to `last` - 1.

    Args:
        spec: of the whole decoder.
        first: its first layer.
        last: one past its last layer.
    """

    def __init__(self, spec: DecoderSpec, first: int, last: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(layer): DecoderLayer(spec) for layer in range(first, last)})

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        """Run S rows through the layers.

        Args:
            hidden: [S, C] float32, the residual stream.
            cos: [S, D] float32.
            sin: [S, D] float32.
            slots: [S] int32, consecutive; where the rows go.
            buffers: keys and values of each layer in turn, [G, M, D] each.

        Returns:
            The residual stream, and the buffers with the rows written.
        """
        made: list[Tensor] = []
        for layer, keys, values in zip(self.layers.values(), buffers[::2], buffers[1::2], strict=True):
            hidden, *written = layer(hidden, cos, sin, slots, keys, values)
            made += written
        return hidden, *made


class Head(nn.Module):
    """Norm and vocabulary: the last row of a residual stream → logits."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.head = nn.Linear(spec.hidden_size, spec.vocabulary, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [1, C] float32 to logits [1, V] float32."""
        return self.head(self.norm(hidden)).float()  # type: ignore[no-any-return]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of channels (i, i + D/2) of [S, heads, D] by the angle of each row."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    turned = wide * cos.unsqueeze(1) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(1)
    return turned.to(x.dtype)


def _written(buffer: Tensor, rows: Tensor, places: Tensor, slots: Tensor) -> Tensor:
    """[G, M, D] with rows [G, S, D] in their slots; as gather and select, which every runtime has."""
    first, last = slots[0], slots[-1]
    inside = (places >= first) & (places <= last)
    picked = rows.index_select(1, (places.clamp(first, last) - first))
    return torch.where(inside.unsqueeze(1), picked, buffer)
