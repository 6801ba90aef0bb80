"""The oracle: STTM in PyTorch with dynamic shapes, written to be read beside docs/semantics.md.

It builds lists of tokens, pairs and representatives, as the paper describes them, and shares nothing with the static
rewrite but the grid tables. Quadtree search: arXiv 2507.07990, section 3.2; directed merging: section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sttm_export.merging.geometry import Geometry


@dataclass(frozen=True)
class FrameTokens:
    """Tokens of the spatial step, all frames, ordered by (t, y, x). n tokens in all.

    Attributes:
        features: [n, C] float32; means, or sums with `weighted_avg`.
        boxes: [n, 5] int64: t, y0, x0, y1, x1, end-exclusive.
    """

    features: Tensor
    boxes: Tensor

    @property
    def areas(self) -> Tensor:
        """[n] int64: cells of each token."""
        _, y0, x0, y1, x1 = self.boxes.unbind(1)
        return (y1 - y0) * (x1 - x0)


@dataclass(frozen=True)
class Merged:
    """Result of the merging; m tokens survive.

    Attributes:
        tokens: [m, C] float32.
        num_patches: [m] int64, cells each token stands for.
        boxes: [m, 5] int64, the box of each representative.
        leaves: the n tokens of the spatial step.
        representatives: [n] int64, for each leaf the index of the leaf that stands for it.
        pairs: [p, 2] int64, all nested leaves (i, j) of consecutive frames.
        similarities: [p] float32, of those pairs.
        assignment: [T, N] int64, the token that each input cell went to.
        rounds: rounds of directed merging that ran.
        margins: distance of the spatial and of the temporal threshold to the nearest similarity that was compared with
            it; infinite where none was.
    """

    tokens: Tensor
    num_patches: Tensor
    boxes: Tensor
    leaves: FrameTokens
    representatives: Tensor
    pairs: Tensor
    similarities: Tensor
    assignment: Tensor
    rounds: int
    margins: tuple[float, float]


def merge(
    features: Tensor,
    spatial_threshold: float,
    temporal_threshold: float,
    *,
    root_level: int = 1,
    weighted_avg: bool = False,
    head_dim: int = 0,
    temporal_step: bool | None = None,
) -> Merged:
    """Merge the tokens of a clip (docs/semantics.md, sections 1 to 4).

    Args:
        features: [T, C, H, W], any float dtype; computed in float32.
        spatial_threshold: cosine at which four children become one token.
        temporal_threshold: cosine at which nested tokens of consecutive frames merge; <= 0 skips the temporal step.
        root_level: index into the pyramid, coarse → fine; -1 for no pyramid.
        weighted_avg: area-weighted means.
        head_dim: channels a head for per-head similarity; 0 for whole vectors.
        temporal_step: whether to merge across frames; None for the published rule. A small budget may solve to a
            threshold <= 0, at which the step must still run.

    Returns:
        The surviving tokens and every decision that led to them.
    """
    frames, _, height, width = features.shape
    geometry = Geometry(height, width, root_level)
    pyramid = build_pyramid(features.float(), geometry, weighted_avg)
    leaves, spatial_margin = quadtree_search(pyramid, geometry, spatial_threshold, head_dim)
    pairs = nested_pairs(leaves.boxes)
    similarities = pair_similarity(leaves.features, pairs, head_dim)
    if temporal_threshold > 0 if temporal_step is None else temporal_step:
        kept = pairs[similarities >= temporal_threshold]
        representatives, rounds = propagate(len(leaves.boxes), kept)
        temporal_margin = _margin(similarities, temporal_threshold)
    else:
        representatives, rounds, temporal_margin = torch.arange(len(leaves.boxes)), 0, math.inf
    roots, slot_of_leaf = torch.unique(representatives, return_inverse=True)
    tokens, num_patches = aggregate(leaves, slot_of_leaf, len(roots), weighted_avg)
    return Merged(
        tokens=tokens,
        num_patches=num_patches,
        boxes=leaves.boxes[roots],
        leaves=leaves,
        representatives=representatives,
        pairs=pairs,
        similarities=similarities,
        assignment=_assignment(leaves.boxes, slot_of_leaf, (frames, height, width)),
        rounds=rounds,
        margins=(spatial_margin, temporal_margin),
    )


def build_pyramid(features: Tensor, geometry: Geometry, weighted_avg: bool) -> list[Tensor]:
    """Pool [T, C, H, W] up to the root level; returns [T, P_l, C] for each level, coarse → fine (section 1)."""
    levels = [features.flatten(2).transpose(1, 2)]
    for slots, valid in zip(reversed(geometry.child_slots), reversed(geometry.child_valid), strict=True):
        children = levels[0][:, torch.from_numpy(slots).long()]
        present = torch.from_numpy(valid)[None, :, :, None]
        total = torch.where(present, children, 0.0).sum(2)
        levels.insert(0, total if weighted_avg else total / present.sum(2))
    return levels


def spatial_similarity(a: Tensor, b: Tensor, head_dim: int) -> Tensor:
    """Cosine over the last dimension, per head and averaged when `head_dim` is given (section 2)."""
    if head_dim:
        a, b = (x.unflatten(-1, (-1, head_dim)) for x in (a, b))
        return F.cosine_similarity(a, b, dim=-1).mean(-1)
    return F.cosine_similarity(a, b, dim=-1)


def quadtree_search(
    pyramid: list[Tensor], geometry: Geometry, threshold: float, head_dim: int
) -> tuple[FrameTokens, float]:
    """Coarse-to-fine search, frame by frame (section 2).

    Returns:
        The leaves in (t, y, x) order, and the distance of the threshold to the nearest similarity that decided.
    """
    frames = pyramid[0].shape[0]
    found: list[tuple[Tensor, Tensor]] = []
    nearest = math.inf
    for t in range(frames):
        visit = torch.arange(len(geometry.boxes[0]))
        for level, nodes in enumerate(pyramid):
            least = _least_similarity(pyramid, geometry, t, level, visit, head_dim)
            nearest = min(nearest, _margin(least, threshold))
            stops = least >= threshold
            leaf = visit[stops]
            found.append((nodes[t, leaf], _node_boxes(geometry, t, level, leaf)))
            if level + 1 < len(pyramid):
                going_on = visit[~stops]
                slots = torch.from_numpy(geometry.child_slots[level])[going_on]
                visit = slots[torch.from_numpy(geometry.child_valid[level])[going_on]].long()
    features, boxes = (torch.cat(column) for column in zip(*found, strict=True))
    order = torch.argsort((boxes[:, 0] * geometry.height + boxes[:, 1]) * geometry.width + boxes[:, 2])
    return FrameTokens(features[order], boxes[order]), nearest


def _least_similarity(
    pyramid: list[Tensor], geometry: Geometry, t: int, level: int, visit: Tensor, head_dim: int
) -> Tensor:
    """[v]: least similarity of each visited node to its child slots; infinite on the finest level, where all stop."""
    if level + 1 == len(pyramid):
        return torch.full((len(visit),), math.inf)
    # Empty slots point at cell (0, 0) and take part in the test: a quirk of the published code (rule 2.3).
    children = pyramid[level + 1][t, torch.from_numpy(geometry.child_slots[level]).long()[visit]]
    # `amin` passes NaN on, and a comparison with it fails, as it does slot by slot.
    return spatial_similarity(pyramid[level][t, visit, None], children, head_dim).amin(1)


def _margin(similarities: Tensor, threshold: float) -> float:
    return min((similarities - threshold).abs().tolist(), default=math.inf)


def _node_boxes(geometry: Geometry, t: int, level: int, nodes: Tensor) -> Tensor:
    """[v, 5]: boxes of nodes of one level."""
    boxes = torch.from_numpy(geometry.boxes[level]).long()[nodes]
    return torch.cat([torch.full((len(nodes), 1), t), boxes], 1)


def nested_pairs(boxes: Tensor) -> Tensor:
    """[p, 2]: every (i, j), i in frame t, j in frame t + 1, where one box contains the other (section 3)."""
    t = boxes[:, 0]
    found = []
    for frame in range(int(t.max()) if len(t) else 0):
        i, j = torch.nonzero(t == frame).flatten(), torch.nonzero(t == frame + 1).flatten()
        a, b = boxes[i, 1:][:, None], boxes[j, 1:][None]
        a_holds_b = (a[..., :2] <= b[..., :2]).all(-1) & (a[..., 2:] >= b[..., 2:]).all(-1)
        b_holds_a = (b[..., :2] <= a[..., :2]).all(-1) & (b[..., 2:] >= a[..., 2:]).all(-1)
        rows, columns = torch.nonzero(a_holds_b | b_holds_a, as_tuple=True)
        found.append(torch.stack([i[rows], j[columns]], 1))
    return torch.cat(found) if found else torch.zeros(0, 2, dtype=torch.int64)


def pair_similarity(features: Tensor, pairs: Tensor, head_dim: int) -> Tensor:
    """[p] float32: cosine with each norm + 1e-8, per head and averaged when `head_dim` is given (section 3)."""
    x = features.unflatten(-1, (-1, head_dim or features.shape[-1]))
    x = x / (x.norm(dim=-1, keepdim=True) + 1e-8)
    return torch.cat(
        [(x[i] * x[j]).sum(-1).mean(-1) for i, j in (part.T for part in pairs.split(4096))] or [x.new_zeros(0)]
    )


def propagate(count: int, kept: Tensor) -> tuple[Tensor, int]:
    """Representatives of `count` tokens given the kept pairs [k, 2], with the published stopping rule (section 3).

    Returns:
        [count] int64 representatives, and the rounds that ran.
    """
    rep = torch.arange(count)
    rounds = 0
    while len(kept):
        smallest = rep[kept].amin(1)
        rep = rep.scatter_reduce(0, kept[:, 0], smallest, "amin").scatter_reduce(0, kept[:, 1], smallest, "amin")
        rep = rep[rep]
        rounds += 1
        # Not full connected components: the test asks only that the pointers are flat (rule 3.4).
        if torch.equal(rep[rep], rep):
            break
    return rep, rounds


def aggregate(leaves: FrameTokens, slot_of_leaf: Tensor, count: int, weighted_avg: bool) -> tuple[Tensor, Tensor]:
    """Mean feature [count, C] and area [count] of each group; every node counts once, or by area (section 4)."""
    total = leaves.features.new_zeros(count, leaves.features.shape[1]).index_add_(0, slot_of_leaf, leaves.features)
    area = torch.zeros(count, dtype=torch.int64).index_add_(0, slot_of_leaf, leaves.areas)
    divisor = area if weighted_avg else torch.bincount(slot_of_leaf, minlength=count)
    return total / divisor[:, None], area


def _assignment(boxes: Tensor, slot_of_leaf: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[T, N]: the token of each input cell; the leaves of a frame tile it."""
    grid = torch.full(shape, -1, dtype=torch.int64)
    for (t, y0, x0, y1, x1), slot in zip(boxes.tolist(), slot_of_leaf.tolist(), strict=True):
        grid[t, y0:y1, x0:x1] = slot
    return grid.flatten(1)
