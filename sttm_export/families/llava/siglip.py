"""The SigLIP tower (arXiv 2303.15343) as LLaVA-Video uses it, written for a static, strongly typed export.

Matmuls run in the module's dtype. LayerNorm, softmax and GELU run in float32 through explicit casts: float16 towers
whose norms overflow or whose softmax is rounded are the commonest silent fault of exported encoders. Only the form
`op(x.float()).to(x.dtype)` survives export; the `dtype=` argument of softmax is lost and leaves a float16 Softmax.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.families.llava.architecture import Llava, TowerSpec
from sttm_export.families.modules import Float32LayerNorm


class SelfAttention(nn.Module):
    """Multi-head self-attention without a mask."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, hidden // heads
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, P, C] to [B, P, C]."""
        query, key, value = (self._split(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        # Scaling the query rather than the scores keeps float16 scores from overflowing; in float32, because the
        # factor itself (1/sqrt(72)) would lose 2e-4 as a float16 constant and bend every score alike.
        query = (query.float() * self.head_dim**-0.5).to(x.dtype)
        scores = torch.matmul(query, key.transpose(-1, -2))
        attention = torch.softmax(scores.float(), dim=-1).to(x.dtype)
        mixed = torch.matmul(attention, value).transpose(1, 2)
        return self.out_proj(mixed.reshape(x.shape))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        batch, patches, _ = x.shape
        return x.reshape(batch, patches, self.heads, self.head_dim).transpose(1, 2)


class MLP(nn.Module):
    """Linear, GELU in the tanh form of SigLIP, Linear."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, P, C] to [B, P, C]."""
        active = F.gelu(self.fc1(x).float(), approximate="tanh").to(x.dtype)
        return self.fc2(active)  # type: ignore[no-any-return]


class SiglipLayer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, tower: TowerSpec) -> None:
        super().__init__()
        self.layer_norm1 = Float32LayerNorm(tower.hidden_size, eps=tower.layer_norm_eps)
        self.self_attn = SelfAttention(tower.hidden_size, tower.heads)
        self.layer_norm2 = Float32LayerNorm(tower.hidden_size, eps=tower.layer_norm_eps)
        self.mlp = MLP(tower.hidden_size, tower.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, P, C] to [B, P, C]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class SiglipTower(nn.Module):
    """Patches, positions and the first `tower.layers` layers; no post-layernorm and no pooling head."""

    def __init__(self, llava: Llava) -> None:
        super().__init__()
        tower = llava.tower
        # A strided convolution cuts off the image's remainder (384 = 27·14 + 6) as the published tower does.
        self.patch_embedding = nn.Conv2d(3, tower.hidden_size, kernel_size=tower.patch_size, stride=tower.patch_size)
        # Holds the table only: all positions are used in order, so a plain add replaces the lookup and its indices.
        self.position_embedding = nn.Embedding(llava.patches, tower.hidden_size)
        self.layers = nn.ModuleList(SiglipLayer(tower) for _ in range(tower.layers))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map pixels [B, 3, S, S] to hidden states [B, P, hidden], patches row-major, in the module's dtype."""
        x = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        x = x + self.position_embedding.weight
        for layer in self.layers:
            x = layer(x)
        return x  # type: ignore[no-any-return]
