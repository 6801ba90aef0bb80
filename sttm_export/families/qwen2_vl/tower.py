"""Qwen2-VL's vision tower (arXiv 2409.12191) at one resolution, written for a static, strongly typed export.

Matmuls run in the module's dtype; norms, softmax, activations and rotary positions in float32 through explicit casts,
for the reasons given with the SigLIP tower of the LLaVA family.

Patches stay row-major to the end, where the published code orders them by merge windows throughout: attention does not
know their order, each patch keeps its own angles, and the merger gathers the windows. What is the same to the last
detail is the inside of a patch (channel, frame, row, column), which the weights are made for.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.families.modules import Float32LayerNorm
from sttm_export.families.qwen2_vl.architecture import Qwen2VL, TowerSpec
from sttm_export.families.qwen2_vl.rotary import rotary_tables, rotate

EPS = 1e-6
"""Of every LayerNorm; Qwen2-VL's configurations do not name it."""


class PatchEmbed(nn.Module):
    """Cuts steps of frames into patches and projects each: the strided Conv3d of the checkpoint as one Linear."""

    def __init__(self, qwen: Qwen2VL) -> None:
        super().__init__()
        self.qwen = qwen
        self.proj = nn.Linear(qwen.tower.patch_values, qwen.tower.embed_dim, bias=False)
        self.register_load_state_dict_pre_hook(_flatten_kernel)  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map frames [B, 3, H, W] to [S, P, hidden], S steps of patches, row-major."""
        frames, patch, qwen = self.qwen.tower.temporal_patch_size, self.qwen.tower.patch_size, self.qwen
        steps = pixel_values.shape[0] // frames
        # Seven dimensions; TensorRT has eight, one too few to order the merge windows in the same transposition.
        x = pixel_values.reshape(steps, frames, 3, qwen.rows, patch, qwen.columns, patch)
        x = x.permute(0, 3, 5, 2, 1, 4, 6)
        return self.proj(x.reshape(steps, qwen.patches, qwen.tower.patch_values))  # type: ignore[no-any-return]


def _flatten_kernel(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: Any) -> None:
    """Take the kernel [C, 3, frames, height, width] for the rows of a Linear: a patch is laid out like it."""
    name = f"{prefix}proj.weight"
    state[name] = state[name].flatten(1)


class Attention(nn.Module):
    """Multi-head attention among the patches of one step."""

    def __init__(self, tower: TowerSpec) -> None:
        super().__init__()
        self.heads, self.head_dim = tower.num_heads, tower.head_dim
        self.qkv = nn.Linear(tower.embed_dim, 3 * tower.embed_dim)
        self.proj = nn.Linear(tower.embed_dim, tower.embed_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map [S, P, C] to [S, P, C], positions as the tables [P, d/2] say."""
        steps, patches, channels = x.shape
        qkv = self.qkv(x).reshape(steps, patches, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        # Scaling the query rather than the scores keeps float16 scores from overflowing; in float32, because the
        # factor itself (1/sqrt(80)) would be rounded as a float16 constant and bend every score alike.
        query = (rotate(qkv[0].float(), cos, sin) * self.head_dim**-0.5).to(x.dtype)
        key = rotate(qkv[1].float(), cos, sin).to(x.dtype)
        scores = torch.matmul(query, key.transpose(-1, -2))
        attention = torch.softmax(scores.float(), dim=-1).to(x.dtype)
        mixed = torch.matmul(attention, qkv[2]).transpose(1, 2)
        return self.proj(mixed.reshape(steps, patches, channels))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Linear, QuickGELU, Linear."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map [S, P, C] to [S, P, C]."""
        inner = self.fc1(x).float()
        return self.fc2((inner * torch.sigmoid(1.702 * inner)).to(x.dtype))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, tower: TowerSpec) -> None:
        super().__init__()
        self.norm1 = Float32LayerNorm(tower.embed_dim, eps=EPS)
        self.norm2 = Float32LayerNorm(tower.embed_dim, eps=EPS)
        self.attn = Attention(tower)
        self.mlp = MLP(tower.embed_dim, tower.inner_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Map [S, P, C] to [S, P, C]."""
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Float32GELU(nn.Module):
    """GELU (erf), computed in float32 and returned in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape."""
        return F.gelu(x.float()).to(x.dtype)


class PatchMerger(nn.Module):
    """Norm, the patches of a merge window side by side, Linear, GELU, Linear."""

    def __init__(self, qwen: Qwen2VL) -> None:
        super().__init__()
        tower = qwen.tower
        self.side, self.rows, self.columns = tower.spatial_merge_size, qwen.rows, qwen.columns
        self.ln_q = Float32LayerNorm(tower.embed_dim, eps=EPS)
        self.mlp = nn.Sequential(
            nn.Linear(tower.window_values, tower.window_values),
            Float32GELU(),
            nn.Linear(tower.window_values, qwen.channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [S, P, hidden] to tokens [S, N, C], both row-major."""
        steps, _, hidden = x.shape
        side, rows, columns = self.side, self.rows // self.side, self.columns // self.side
        x = self.ln_q(x).reshape(steps, rows, side, columns, side, hidden).permute(0, 1, 3, 2, 4, 5)
        return self.mlp(x.reshape(steps, rows * columns, side * side * hidden))  # type: ignore[no-any-return]


class VisionTower(nn.Module):
    """Frames to tokens of the language model; every shape is static but the batch."""

    def __init__(self, qwen: Qwen2VL) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(qwen)
        self.blocks = nn.ModuleList(Block(qwen.tower) for _ in range(qwen.tower.depth))
        self.merger = PatchMerger(qwen)
        # No buffers: those would be rounded to float16 with the weights. From NumPy, so that they hold values where the
        # module is made on the meta device.
        self.cos, self.sin = map(torch.from_numpy, rotary_tables(qwen.rows, qwen.columns, qwen.tower.head_dim))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map frames [B, 3, H, W] to features [S, N, C], row-major, both in the module's dtype."""
        x = self.patch_embed(pixel_values)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.merger(x)  # type: ignore[no-any-return]
