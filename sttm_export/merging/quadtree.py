"""The spatial step with static shapes: which nodes become leaves (docs/semantics.md, sections 2 and 7)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sttm_export.merging.geometry import ClipNodes, Geometry


def find_leaves(minima: list[Tensor], threshold: Tensor, nodes: ClipNodes) -> Tensor:
    """[T, N] int32: number of the leaf that covers each cell, by coarse-to-fine search (rules 2.2 and 7.2).

    Args:
        minima: for each level but the finest, [T, P_l]: least similarity of a node to its child slots.
        threshold: scalar; a node whose least similarity reaches it stops.
        nodes: numbering of the clip's nodes.
    """
    geometry = nodes.geometry
    leaf = torch.from_numpy(nodes.covering[-1])
    visited = torch.ones(nodes.numbers[0].shape, dtype=torch.bool)  # [T, P_0]
    for level, least in enumerate(minima):
        high = least >= threshold
        stops = (visited & high).index_select(1, torch.from_numpy(geometry.ancestors[level]))  # [T, N]
        leaf = torch.where(stops, torch.from_numpy(nodes.covering[level]), leaf)
        visited = (visited & ~high).index_select(1, torch.from_numpy(geometry.parents[level + 1]))
    return leaf


def reaches(minima: list[Tensor], geometry: Geometry, frame_counts: Tensor) -> tuple[Tensor, Tensor]:
    """What decides whether a node is opened, and what that adds (rule 8.2), for all P nodes that have children.

    A node is opened if and only if it and all its ancestors fall short of the threshold, so the count of leaves is a
    monotone sum over nodes and needs no tree search.

    Args:
        minima: least child similarity per level, [T, P_l].
        geometry: tables of the grid.
        frame_counts: [T, 1] bool.

    Returns:
        reach [T, P] float32: the greatest of the node's and its ancestors' least child similarities; gain [T, P]
        float32: leaves that opening it adds, 0 in ignored frames.
    """
    reached = list(minima)
    for level in range(1, len(minima)):
        above = reached[level - 1].index_select(1, torch.from_numpy(geometry.parents[level]))
        reached[level] = torch.maximum(minima[level], above)
    gain = np.concatenate([valid.sum(1) - 1 for valid in geometry.child_valid]).astype(np.float32)  # [P]
    return torch.cat(reached, 1), torch.where(frame_counts, torch.from_numpy(gain), 0.0)
