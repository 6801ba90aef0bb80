"""The token merger that is exported: STTM with fixed shapes and a fixed budget, exactly equal to the published merging.

Contract: `contracts.graph.token_merger_graph`. Derivation: docs/semantics.md, sections 7 and 8. Passes over the
channels, [T, N, C]: pool, compare with parents, norms, compare across frames, gather sorted, sum, place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sttm_export.contracts.merge import MergeSpec
from sttm_export.merging.budget import FAR, NOTHING_MERGES, BudgetSolver, count_tokens, margin, reaches
from sttm_export.merging.geometry import Geometry, Ints
from sttm_export.merging.grouping import (
    BLOCK,
    WINDOW,
    exclusive_prefix,
    padded_rows,
    segment_bounds,
    segment_sum,
    stable_order,
)
from sttm_export.merging.quadtree import Leaves, build_pyramid, find_leaves, head_norm, slot_minima
from sttm_export.merging.temporal import pair_similarity, propagate, unrolled_rounds


@dataclass(frozen=True)
class _Rows:
    """Features of every node that could be a leaf, by row: coarser levels, a row of zeros, then the T·N cells.

    Attributes:
        coarse: [R, C] float32, all but the finest level, frame by frame, and the row of zeros.
        cells: [T·N, C] in the dtype of the input.
        joined: [R + T·N, C] float32, both in one, or None where the input is narrower than float32. One gather is
            fastest on a CPU. On a GPU traffic is what counts: cells that stay in the input's format and are widened as
            they are gathered save a float32 copy of the clip and most of the joined table.
    """

    coarse: Tensor
    cells: Tensor
    joined: Tensor | None

    @classmethod
    def of(cls, pyramid: list[Tensor], features: Tensor) -> _Rows:
        """Lay out a pyramid [T, P_l, C] whose finest level is `features`."""
        levels = [level.flatten(0, 1) for level in pyramid[:-1]]
        coarse = torch.cat([*levels, torch.zeros(1, features.shape[2])])
        cells = features.flatten(0, 1)
        return cls(coarse, cells, torch.cat([coarse, cells]) if features.dtype == torch.float32 else None)

    def take(self, rows: Tensor) -> Tensor:
        """[M, C] float32 of the rows [M] int32."""
        if self.joined is not None:
            return self.joined.index_select(0, rows)
        first = self.coarse.shape[0]
        fine = self.cells.index_select(0, (rows - first).clamp(min=0)).float()
        return torch.where((rows >= first)[:, None], fine, self.coarse.index_select(0, rows.clamp(max=first - 1)))


@dataclass(frozen=True)
class _Clip:
    """What both steps need to know of one call: T frames, of which some count.

    Attributes:
        rows: features of all nodes.
        norms: [R + T·N, heads] float32, in the order of the rows.
        minima: least child similarity per level, [T, P_l].
        frame_counts: [T, 1] bool.
        budget: scalar float32, tokens that this clip may keep.
    """

    rows: _Rows
    norms: Tensor
    minima: list[Tensor]
    frame_counts: Tensor
    budget: Tensor


@dataclass(frozen=True)
class _Merging:
    """What the temporal step found.

    Attributes:
        threshold: scalar float32, to be reported.
        margin: scalar float32, its distance to the nearest similarity.
        representatives: [T, N] int32.
        converged: scalar bool, whether the rounds sufficed.
    """

    threshold: Tensor
    margin: Tensor
    representatives: Tensor
    converged: Tensor


class TokenMerger(nn.Module):
    """Spatio-temporal token merging [T, N, C] → [K, C] with static shapes.

    Exact against `merging.reference.merge` at the thresholds it reports; in `budget` policy it solves those thresholds.
    """

    def __init__(self, spec: MergeSpec) -> None:
        """Build the tables of the grid for `spec`."""
        super().__init__()
        self.spec = spec
        self.geometry = Geometry(spec.height, spec.width, spec.root_level)
        self.solver = BudgetSolver(spec, self.geometry)

    def forward(
        self, features: Tensor, num_frames: Tensor, spatial_threshold: Tensor, temporal_threshold: Tensor
    ) -> tuple[Tensor, ...]:
        """Merge one clip.

        Args:
            features: [T, N, C] float; frames from `num_frames` on are ignored, whatever they hold.
            num_frames: int32 scalar.
            spatial_threshold: float32 scalar.
            temporal_threshold: float32 scalar; <= 0 skips the temporal step; ignored in `budget` policy.

        Returns:
            tokens [K, C] in the dtype of `features`, num_tokens int32, token_box [K, 5] int32, token_patches [K] int32,
            assignment [T, N] int32, thresholds_applied [2] float32, converged bool, threshold_margins [2] float32.
        """
        clip = self._prepare(features, num_frames)
        spatial, spatial_margin = self._spatial_threshold(clip, spatial_threshold)
        leaves = find_leaves(clip.minima, spatial, self.geometry, self.spec.frames)
        leaf_row = self._leaf_rows(leaves)
        merged = self._merge_frames(clip, leaves, leaf_row, temporal_threshold)
        outputs = self._pack(clip, leaves, leaf_row, merged.representatives, features.dtype)
        thresholds = torch.stack([spatial, merged.threshold])
        return *outputs, thresholds, merged.converged, torch.stack([spatial_margin, merged.margin])

    def _prepare(self, features: Tensor, num_frames: Tensor) -> _Clip:
        """Pyramid, norms and parent-child similarities."""
        spec = self.spec
        frame_counts = (torch.arange(spec.frames, dtype=torch.int32) < num_frames)[:, None]
        pyramid = build_pyramid(features.float(), self.geometry, spec.weighted_avg)
        norms = [head_norm(level, spec.head_dim) for level in pyramid]
        minima = slot_minima(pyramid, norms, self.geometry, spec.head_dim)
        flat = [norm.flatten(0, 1) for norm in norms]
        return _Clip(
            rows=_Rows.of(pyramid, features),
            norms=torch.cat([*flat[:-1], torch.zeros(1, norms[0].shape[2]), flat[-1]]),
            # Ignored frames never open a node, so that they count for nothing in the budget.
            minima=[torch.where(frame_counts, least, torch.inf) for least in minima],
            frame_counts=frame_counts,
            budget=self.solver.clip_budget(num_frames),
        )

    def _spatial_threshold(self, clip: _Clip, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spatial threshold that is applied, and its margin."""
        if not clip.minima:
            return given, torch.full((), FAR)
        reach, gain = reaches(clip.minima, self.geometry, clip.frame_counts)
        applied = given
        if self.spec.policy == "budget":
            roots = clip.frame_counts.float().sum() * len(self.geometry.areas[0])
            applied = self.solver.solve_spatial(reach, gain, roots, given, clip.budget)
        return applied, margin(reach, clip.frame_counts, applied)

    def _leaf_rows(self, leaves: Leaves) -> Tensor:
        """[T, N] int32: the row that holds the feature of each cell's leaf (see `_Rows`)."""
        sizes = np.array([[len(areas)] for areas in self.geometry.areas], np.int32)  # [L, 1]
        starts = (np.cumsum(sizes, 0, dtype=np.int32) - sizes) * self.spec.frames
        starts[-1] += 1  # the row of zeros
        first = leaves.select(torch.from_numpy(self.geometry.ancestors + starts))
        stride = leaves.select(torch.from_numpy(np.broadcast_to(sizes, self.geometry.ancestors.shape).copy()))
        return first + stride * torch.arange(self.spec.frames, dtype=torch.int32)[:, None]

    def _merge_frames(self, clip: _Clip, leaves: Leaves, leaf_row: Tensor, given: Tensor) -> _Merging:
        """The temporal step."""
        if self.spec.frames == 1:
            return _Merging(given, torch.full((), FAR), leaves.owner, torch.ones((), dtype=torch.bool))
        before, after = leaf_row[:-1].flatten(), leaf_row[1:].flatten()
        norms = clip.norms.index_select(0, before), clip.norms.index_select(0, after)
        similarity = pair_similarity(clip.rows.take(before), clip.rows.take(after), norms, self.spec.head_dim)
        similarity = similarity.view(-1, self.spec.cells)
        pairs = clip.frame_counts[1:].expand(similarity.shape)
        applied, effective = self._temporal_threshold(clip, leaves, similarity, pairs, given)
        kept = (similarity >= effective) & pairs
        # More rounds than candidates are counted with: they can only merge more, which never breaks the budget.
        rounds = unrolled_rounds(self.spec.frames)
        representatives, converged = propagate(kept[None], leaves, self.geometry, rounds)
        compared = pairs & (effective < NOTHING_MERGES)
        return _Merging(applied, margin(similarity, compared, effective), representatives[0], converged[0])

    def _temporal_threshold(
        self, clip: _Clip, leaves: Leaves, similarity: Tensor, pairs: Tensor, given: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the threshold to report and the one to compare with; they differ where `given` skips the step."""
        spec = self.spec
        effective = torch.where(given > 0, given, NOTHING_MERGES)
        if spec.policy == "threshold" and spec.budget == 1.0:
            return given, effective
        nodes = self._nodes(clip, leaves)
        solved = self.solver.solve_temporal(similarity, pairs, nodes, leaves, clip.budget)
        if spec.policy == "budget":
            return solved, solved
        count = count_tokens(similarity, pairs, nodes, effective[None], leaves, self.geometry)[0]
        fits = count <= clip.budget
        return torch.where(fits, given, solved), torch.where(fits, effective, solved)

    def _cell_index(self) -> Tensor:
        """[T, N] int32: t·N + p."""
        spec = self.spec
        return torch.arange(spec.frames * spec.cells, dtype=torch.int32).view(spec.frames, spec.cells)

    def _nodes(self, clip: _Clip, leaves: Leaves) -> Tensor:
        """[T, N] bool: the top-left cell of each leaf of a frame that counts."""
        return (leaves.owner == self._cell_index()) & clip.frame_counts

    def _pack(
        self, clip: _Clip, leaves: Leaves, leaf_row: Tensor, representatives: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gather the groups into K slots, ascending in (t, y, x) of their representatives (section 4)."""
        spec, budget = self.spec, self.spec.max_tokens
        roots = (representatives == self._cell_index()) & clip.frame_counts
        num_tokens = roots.float().sum()
        rank = exclusive_prefix(roots.float()).flatten().gather(0, representatives.flatten().long())
        slot = torch.where(clip.frame_counts, rank.view(roots.shape).clamp(max=budget), float(budget))

        keys = torch.where(self._nodes(clip, leaves), slot, float(budget))
        order = stable_order(keys, budget.bit_length())
        slots = keys.flatten().gather(0, order.long()).to(torch.int32)
        order, slots = _pad(order, 0), _pad(slots, budget)
        first, last = segment_bounds(slots, budget)
        used = torch.arange(budget, dtype=torch.float32) < num_tokens

        area = leaves.select(self._level_table(self.geometry.areas)).flatten().gather(0, order.long()).float()
        area = torch.where(slots < budget, area, 0.0)
        before = exclusive_prefix(area.view(-1, WINDOW * BLOCK)).flatten()
        patches = (before + area).gather(0, last.long()) - before.gather(0, first.long())
        patches = torch.where(used, patches, 0.0)

        members = (last - first + 1).float()
        divisor = torch.cat([patches.clamp(min=1.0) if spec.weighted_avg else members, torch.ones(1)])
        # Entries of no slot meet the others in a MatMul, where 0 · NaN would spoil their window: they read zeros.
        blank = clip.rows.coarse.shape[0] - 1
        source = torch.where(slots < budget, leaf_row.flatten().gather(0, order.long()), blank)
        weights = 1.0 / divisor.gather(0, slots.long())
        tokens = segment_sum(clip.rows.take(source), weights, slots, (first, last), used).to(dtype)

        # The sort is stable, so the first of a group is its representative.
        box = self._boxes(leaves).index_select(0, order.gather(0, first.long()))
        box = torch.where(used[:, None], box, -1)
        assignment = torch.where(clip.frame_counts, slot.to(torch.int32), -1)
        return tokens, num_tokens.to(torch.int32), box, patches.to(torch.int32), assignment

    def _level_table(self, per_node: list[Ints]) -> Tensor:
        """[L, N]: a per-node quantity of each level, for every cell."""
        return torch.from_numpy(np.stack([v[a] for v, a in zip(per_node, self.geometry.ancestors, strict=True)]))

    def _boxes(self, leaves: Leaves) -> Tensor:
        """[T·N, 5] int32: the box of the leaf that covers each cell."""
        spec = self.spec
        inside = leaves.select(torch.from_numpy(self.geometry.boxes))
        frame = torch.arange(spec.frames, dtype=torch.int32)[:, None, None].expand(spec.frames, spec.cells, 1)
        return torch.cat([frame, inside], 2).flatten(0, 1)


def _pad(values: Tensor, filling: int) -> Tensor:
    """Lengthen [M] int32 to what `segment_sum` takes."""
    missing = padded_rows(values.shape[0]) - values.shape[0]
    return torch.cat([values, torch.full((missing,), filling, dtype=torch.int32)])
