"""All that touches the channels: pyramid, norms, cosines of nodes with parents and across frames (rules 1.3, 2.1, 3.2).

What costs is moving features, so each function says how often it passes over [T, N, C] (docs/semantics.md, section 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sttm_export.merging.geometry import Geometry

SPATIAL_EPS = 1e-8
"""A norm counts as at least this, between a node and its parent (rule 2.1)."""

TEMPORAL_EPS = 1e-8
"""This is added to a norm, between frames (rule 3.2)."""

INVALID = -2.0
"""Similarity of a pair that has none (NaN): below every cosine, so that it merges only when everything must."""


@dataclass(frozen=True)
class NodeFeatures:
    """Features of all nodes of a clip, by the numbers of `ClipNodes`; number R stands for a row of zeros.

    One gather is fastest on a CPU, and float32 features are joined for it. On a GPU traffic is what counts: cells that
    stay in the input's narrower format and are widened as they are gathered save a float32 copy of the clip.
    """

    cells: Tensor  # [T·N, C] in the dtype of the input
    coarse: Tensor  # [R - T·N + 1, C] float32: all other levels, and the row of zeros
    joined: Tensor | None  # [R + 1, C] float32: both in one, if the input is float32

    @classmethod
    def of(cls, pyramid: list[Tensor], features: Tensor) -> NodeFeatures:
        """Lay out a pyramid of [T, P_l, C], coarse → fine, whose finest level is `features`."""
        cells = features.flatten(0, 1)
        above = [*(level.flatten(0, 1) for level in pyramid[-2::-1]), torch.zeros(1, features.shape[2])]
        if features.dtype == torch.float32:
            return cls(cells, above[-1], torch.cat([cells, *above]))
        return cls(cells, torch.cat(above), None)

    def take(self, numbers: Tensor) -> Tensor:
        """[..., C] float32 of the nodes [...] int32."""
        if self.joined is not None:
            return F.embedding(numbers, self.joined)
        size = self.cells.shape[0]
        fine = F.embedding(numbers.clamp(max=size - 1), self.cells).float()
        return torch.where((numbers < size)[..., None], fine, F.embedding((numbers - size).clamp(min=0), self.coarse))


def build_pyramid(cells: Tensor, geometry: Geometry, weighted_avg: bool) -> list[Tensor]:
    """Pool [T, N, C] float32 up to the root level: [T, P_l, C] for each level, coarse → fine. Reads 1, writes 1/3."""
    grid = cells.unflatten(1, (geometry.height, geometry.width))  # [T, h, w, C]
    levels = [cells]
    for size, valid in zip(geometry.sizes[-2::-1], geometry.child_valid[::-1], strict=True):
        grid = pool_axis(pool_axis(grid, 1), 2)
        if not weighted_avg:
            # One multiplication by 1, 1/2 or 1/4, which is exact: ReduceMean divides once a side, a pass over the
            # channels each.
            share = (1.0 / valid.sum(1)).astype(np.float32)
            grid = grid * (float(share[0]) if valid.all() else torch.from_numpy(share).view(*size, 1))
        levels.insert(0, grid.flatten(1, 2))
    return levels


def pool_axis(x: Tensor, axis: int) -> Tensor:
    """Sum one axis by twos; an odd side leaves index 0 alone (rule 1.2)."""
    side = x.shape[axis]
    if side == 1:
        return x
    lone = side % 2
    pooled: Tensor = x.narrow(axis, lone, side - lone).unflatten(axis, (side // 2, 2)).sum(axis + 1)
    return torch.cat([x.narrow(axis, 0, 1), pooled], axis) if lone else pooled


def head_dot(a: Tensor, b: Tensor, head_dim: int) -> Tensor:
    """[..., C], [..., C] → [..., heads] float32: dot product of each head; one head when `head_dim` is 0.

    Multiply and sum, not MatMul: exact float32 whatever an engine does with TF32, and one fused pass on a GPU.
    """
    product = a * b
    return product.unflatten(-1, (-1, head_dim)).sum(-1) if head_dim else product.sum(-1, keepdim=True)


def head_norm(x: Tensor, head_dim: int) -> Tensor:
    """[..., C] → [..., heads] float32: Euclidean norm of each head."""
    return head_dot(x, x, head_dim).sqrt()


def mean_cosine(dots: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean over heads of dots / a / b, the last dimension; a and b are norms.

    NaN becomes `INVALID`, as comparisons with NaN are not the same everywhere. A norm that overflows is infinite, and
    the published code, which divides before it multiplies, has a cosine of 0 there; its dot product may be infinite as
    well, and Inf / Inf is NaN (rule 8.7).
    """
    overflowed = torch.logical_or(a == torch.inf, b == torch.inf)
    cosine = torch.where(overflowed, 0.0, dots / a / b).mean(-1)
    return torch.where(cosine >= INVALID, cosine, INVALID)


def slot_minima(pyramid: list[Tensor], norms: list[Tensor], geometry: Geometry, head_dim: int) -> list[Tensor]:
    """For each level but the finest, [T, P_l]: the least similarity of a node to its four child slots. Reads 2 1/3.

    Args:
        pyramid: [T, P_l, C] for each level.
        norms: [T, P_l, heads] for each level.
        geometry: tables of the grid.
        head_dim: channels a head, 0 for whole vectors.
    """
    minima, least = [], torch.full((), SPATIAL_EPS)
    for level, (slots, valid) in enumerate(zip(geometry.child_slots, geometry.child_valid, strict=True)):
        parent, child = pyramid[level], pyramid[level + 1]
        # Max, not Clip: what has no upper end there ends at the greatest finite number in ONNX Runtime.
        parent_norm, child_norm = (torch.maximum(norm, least) for norm in norms[level : level + 2])
        up = torch.from_numpy(geometry.parents[level + 1])  # [P_child]
        dots = _parent_dot(child, parent, geometry.sizes[level + 1], up, head_dim)
        similarity = mean_cosine(dots, child_norm, parent_norm.index_select(1, up))  # [T, P_child]
        place = slots
        short = np.flatnonzero(~valid.all(1))
        if len(short):
            # Empty slots point at cell (0, 0) of the child level and take part in the test (rule 2.3): similarities of
            # their own, behind the others.
            rows = torch.from_numpy(short.astype(np.int32))
            dots = head_dot(parent.index_select(1, rows), child[:, :1], head_dim)
            quirk = mean_cosine(dots, parent_norm.index_select(1, rows), child_norm[:, :1])  # [T, len(short)]
            similarity = torch.cat([similarity, quirk], 1)
            behind = np.cumsum(~valid.all(1)) - 1 + child.shape[1]
            place = np.where(valid, slots, behind[:, None]).astype(np.int32)
        picked = similarity.index_select(1, torch.from_numpy(place.reshape(-1)))  # [T, P_l · 4]
        minima.append(picked.unflatten(1, (-1, 4)).amin(2))
    return minima


def _parent_dot(child: Tensor, parent: Tensor, size: tuple[int, int], up: Tensor, head_dim: int) -> Tensor:
    """[T, P_child, heads]: dot product of each node [T, P_child, C] of an h×w level with its parent."""
    h, w = size
    if h % 2 or w % 2:
        return head_dot(child, parent.index_select(1, up), head_dim)
    # Even sides: 2×2 blocks times a broadcast parent save the pass over the channels that would copy the parents out.
    blocks = child.unflatten(1, (h // 2, 2, w // 2, 2))
    return head_dot(blocks, parent.unflatten(1, (h // 2, 1, w // 2, 1)), head_dim).flatten(1, 4)


def frame_similarity(features: NodeFeatures, norms: Tensor, leaf: Tensor, head_dim: int) -> Tensor:
    """[T, N] float32: in frame t, cosine of each cell's leaf with the leaf of that cell in frame t - 1 (rule 7.3).

    Row 0 has no frame before it and is `INVALID`. Reads 2.

    Args:
        features: of all nodes.
        norms: [R + 1, heads] float32, of all nodes.
        leaf: [T, N] int32, number of the leaf that covers each cell.
        head_dim: channels a head, 0 for whole vectors.
    """
    before, after = leaf[:-1], leaf[1:]  # [T - 1, N]
    dots = head_dot(features.take(before), features.take(after), head_dim)
    scales = (F.embedding(of, norms) + TEMPORAL_EPS for of in (before, after))
    return torch.cat([torch.full((1, leaf.shape[1]), INVALID), mean_cosine(dots, *scales)])
