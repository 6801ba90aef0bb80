"""A group of decoder layers that is exported: static K/V buffers, written in a range of slots, read causally.

Slots of a buffer are filled in the order of the prompt and never skipped; a row sees the slots up to its own. So no
mask is fed, rows behind the end of a short chunk do no harm (the next chunk overwrites their slots before anybody sees
them), and rows past the end of the buffer are dropped. The number S of rows is free: one graph, and its weights once,
for chunks of a prompt and for single tokens.

Norms, softmax, rotary turns and SiLU are computed in float32 through explicit casts, and so is the residual stream: it
reaches 10^4 in some channels, where float16 has steps of 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.contracts.decoder import DecoderSpec

Product = Callable[[int, int], nn.Module]
"""Makes a product of so many inputs and outputs, without a bias, [S, inputs] → [S, outputs]."""


def plain(inputs: int, outputs: int) -> nn.Module:
    """A product whose weights have the dtype of its input."""
    return nn.Linear(inputs, outputs, bias=False)


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

    Query heads of a group are folded into rows, so that keys and values are never repeated in memory. Scores have four
    dimensions and go from one product to the other without a reshape: only so does TensorRT-RTX 1.7 fuse them.
    """

    def __init__(self, spec: DecoderSpec, product: Product = plain) -> None:
        super().__init__()
        width, inner = spec.hidden_size, spec.kv_heads * spec.head_dim
        self.groups, self.shared, self.head_dim = spec.kv_heads, spec.queries_per_key, spec.head_dim
        # One product, so that an engine with a profile for chunks and one for tokens stores its weights once; the bias
        # stands apart, because a float32 product with a bias inside is taken for one with float32 weights.
        self.qkv_proj = product(width, width + 2 * inner)
        self.qkv_bias = nn.Parameter(torch.zeros(width + 2 * inner))
        self.o_proj = product(width, width)
        _take_joined_products(self, "qkv_proj", [f"{kind}_proj" for kind in "qkv"])
        _take_joined(self, "qkv_bias", [f"{kind}_proj.bias" for kind in "qkv"])

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map rows [S, C] and buffers [G, M, D] to rows [S, C] and the buffers with those rows written."""
        groups, shared, width = self.groups, self.shared, self.head_dim
        # S is free in the graph; every reshape leaves it to -1.
        heads = (self.qkv_proj(x).float() + self.qkv_bias.float()).reshape(-1, groups * (shared + 2), width)
        turned = _turned(heads[:, : groups * (shared + 1)], cos, sin)
        # The scale goes to the query, in float32: float16 scores would overflow, and 1/sqrt(D) is no float16 number.
        query = (turned[:, : groups * shared] * width**-0.5).to(x.dtype)
        key, value = turned[:, groups * shared :].to(x.dtype), heads[:, groups * (shared + 1) :].to(x.dtype)
        places = torch.arange(keys.shape[1], dtype=torch.int32)
        keys = _written(keys, key.transpose(0, 1), places, slots)
        values = _written(values, value.transpose(0, 1), places, slots)
        # [S, G·R, D] → [1, G, S·R, D]: one product a group.
        query = query.reshape(-1, groups, shared, width).transpose(0, 1).reshape(1, groups, -1, width)
        scores = torch.matmul(query, keys.transpose(1, 2).unsqueeze(0)).float() + _unseen(slots, shared, places)
        mixed = torch.matmul(torch.softmax(scores, dim=-1).to(x.dtype), values.unsqueeze(0))
        mixed = mixed.reshape(groups, -1, shared * width).transpose(0, 1)
        return self.o_proj(mixed.reshape(-1, groups * shared * width)), keys, values


class MLP(nn.Module):
    """down(SiLU(gate) · up)."""

    def __init__(self, spec: DecoderSpec, product: Product = plain) -> None:
        super().__init__()
        # One product, and float32 before it is parted: else an engine with two profiles stores its weights twice.
        self.gate_up_proj = product(spec.hidden_size, 2 * spec.intermediate_size)
        self.down_proj = product(spec.intermediate_size, spec.hidden_size)
        _take_joined_products(self, "gate_up_proj", ["gate_proj", "up_proj"])

    def forward(self, x: Tensor) -> Tensor:
        """Map [S, C] to [S, C]."""
        gate, up = self.gate_up_proj(x).float().chunk(2, dim=-1)
        return self.down_proj((F.silu(gate) * up).to(x.dtype))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """One pre-norm layer; it loads parameters under their published names."""

    def __init__(self, spec: DecoderSpec, product: Product = plain) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.self_attn = Attention(spec, product)
        self.post_attention_layernorm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.mlp = MLP(spec, product)

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
        product: makes the products of a layer.
    """

    def __init__(self, spec: DecoderSpec, first: int, last: int, product: Product = plain) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(layer): DecoderLayer(spec, product) for layer in range(first, last)})

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

    def __init__(self, spec: DecoderSpec, product: Product = plain) -> None:
        super().__init__()
        self.norm = RMSNorm(spec.hidden_size, spec.rms_norm_eps)
        self.head = product(spec.hidden_size, spec.vocabulary)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [1, C] float32 to logits [1, V] float32."""
        return self.head(self.norm(hidden)).float()  # type: ignore[no-any-return]


def _take_joined_products(module: nn.Module, name: str, parts: Sequence[str]) -> None:
    """The same of a product, whatever it stores of its outputs: weights, or numbers and scales."""
    for stored in getattr(module, name).state_dict():
        _take_joined(module, f"{name}.{stored}", [f"{part}.{stored}" for part in parts])


def _take_joined(module: nn.Module, name: str, parts: Sequence[str]) -> None:
    """Let `load_state_dict` make one parameter of several published ones, their rows one below the other."""

    def join(_: nn.Module, state: dict[str, Tensor], prefix: str, *_unused: Any) -> None:
        published = [prefix + part for part in parts]
        if all(part in state for part in published):
            state[prefix + name] = torch.cat([state.pop(part) for part in published])

    module.register_load_state_dict_pre_hook(join)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of channels (i, i + D/2) of [S, heads, D] float32 by the angle of each row."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(1)


def _unseen(slots: Tensor, shared: int, places: Tensor) -> Tensor:
    """[S·R, M] float32 to be added to scores: 0 where a row sees a slot, elsewhere so little that softmax gives 0."""
    rows = slots.unsqueeze(1).expand(-1, shared).reshape(-1, 1)
    return torch.where(places <= rows, torch.full((), 0.0), torch.full((), -1e9))


def _written(buffer: Tensor, rows: Tensor, places: Tensor, slots: Tensor) -> Tensor:
    """[G, M, D] with rows [G, S, D] in their slots; as gather and select, which every runtime has."""
    first, last = slots[0], slots[-1]
    inside = (places >= first) & (places <= last)
    picked = rows.index_select(1, (places.clamp(first, last) - first))
    return torch.where(inside.unsqueeze(1), picked, buffer)
