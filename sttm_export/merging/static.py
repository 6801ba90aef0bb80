"""The token merger that is exported: STTM with fixed shapes and a fixed budget, exactly equal to the published merging.

Contract: `contracts.graph.token_merger_graph`. Derivation: docs/semantics.md, sections 7 and 8, whose letters are used.

To read in an hour, in this order: `TokenMerger.forward` below; `geometry`, how nodes are numbered; `channels`, the only
place that touches the features; `quadtree`, the spatial step; `temporal`, the rounds; the sorting and summing of
`_pack` below, and `grouping` for how; `ladder` and `budget` last, which choose thresholds that fill a budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttm_export.contracts.merge import NOTHING_MERGES, MergeSpec
from sttm_export.merging.budget import FAR, BudgetSolver, margin
from sttm_export.merging.channels import NodeFeatures, build_pyramid, frame_similarity, head_norm, slot_minima
from sttm_export.merging.geometry import ClipNodes, Geometry
from sttm_export.merging.grouping import exclusive_sum, padded_rows, segment_bounds, segment_sum, stable_order
from sttm_export.merging.quadtree import find_leaves, reaches
from sttm_export.merging.temporal import DirectedMerging, search_rounds, unrolled_rounds


@dataclass(frozen=True)
class PreparedClip:
    """What both steps need to know of one call: T frames, of which some count."""

    features: NodeFeatures
    norms: Tensor  # [R + 1, heads] float32, of all nodes by number, and of the row of zeros
    minima: list[Tensor]  # for each level but the finest, [T, P_l] float32: least similarity to the child slots
    frame_counts: Tensor  # [T, 1] bool
    cell_counts: Tensor  # [T·N] bool, the same for every cell
    budget: Tensor  # scalar float32, tokens that this clip may keep


@dataclass(frozen=True)
class _Merged:
    """What the temporal step found."""

    threshold: Tensor  # scalar float32, to be reported
    margin: Tensor  # scalar float32, its distance to the nearest similarity
    representatives: Tensor  # [T·N] int32: owner of the leaf that stands for each cell's leaf
    converged: Tensor  # scalar bool, whether the rounds sufficed


class TokenMerger(nn.Module):
    """Spatio-temporal token merging [T, N, C] → [K, C] with static shapes.

    Exact against `merging.reference.merge` at the thresholds it reports; in `budget` policy it solves those thresholds.
    """

    def __init__(self, spec: MergeSpec) -> None:
        """Build the tables of the grid for `spec`."""
        super().__init__()
        self.spec = spec
        self.geometry = Geometry(spec.height, spec.width, spec.root_level)
        self.nodes = ClipNodes(self.geometry, spec.frames)
        self.solver = BudgetSolver(spec)

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
        tokens, *described = self.merge(self.prepare(features, num_frames), spatial_threshold, temporal_threshold)
        return tokens.to(features.dtype), *described

    def merge(self, clip: PreparedClip, spatial_threshold: Tensor, temporal_threshold: Tensor) -> tuple[Tensor, ...]:
        """Merge a clip that was prepared, at one pair of thresholds of several; see `forward`. Tokens are float32."""
        spatial, spatial_margin = self._spatial_threshold(clip, spatial_threshold)
        leaf = find_leaves(clip.minima, spatial, self.nodes)  # [T, N], by number
        rounds = DirectedMerging(leaf, self.nodes)
        merged = self._merge_frames(clip, leaf, rounds, temporal_threshold)
        tokens, *described = self._pack(clip, leaf, rounds.owner, merged.representatives)
        thresholds = torch.stack([spatial, merged.threshold])
        margins = torch.stack([spatial_margin, merged.margin])
        return tokens, *described, thresholds, merged.converged, margins

    def prepare(self, features: Tensor, num_frames: Tensor) -> PreparedClip:
        """Pyramid, norms and parent-child similarities: what does not depend on thresholds; see `forward`."""
        spec = self.spec
        frame_counts = (torch.arange(spec.frames, dtype=torch.int32) < num_frames)[:, None]
        pyramid = build_pyramid(features.float(), self.geometry, spec.weighted_avg)
        norms = [head_norm(level, spec.head_dim) for level in pyramid]  # [T, P_l, heads] each
        minima = slot_minima(pyramid, norms, self.geometry, spec.head_dim)
        by_number = [norm.flatten(0, 1) for norm in norms[::-1]]
        return PreparedClip(
            features=NodeFeatures.of(pyramid, features),
            norms=torch.cat([*by_number, torch.zeros(1, norms[0].shape[2])]),
            # Ignored frames never open a node, so that they count for nothing in the budget.
            minima=[torch.where(frame_counts, least, torch.inf) for least in minima],
            frame_counts=frame_counts,
            cell_counts=frame_counts.expand(-1, spec.cells).flatten(),
            budget=self.solver.clip_budget(num_frames),
        )

    def _spatial_threshold(self, clip: PreparedClip, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spatial threshold that is applied, and its margin."""
        if not clip.minima:
            return given, torch.full((), FAR)
        reach, gain = reaches(clip.minima, self.geometry, clip.frame_counts)  # [T, P] each
        applied = given
        if self.spec.policy == "budget":
            roots = clip.frame_counts.float().sum() * len(self.geometry.boxes[0])
            applied = self.solver.solve_spatial(reach, gain, roots, given, clip.budget)
        return applied, margin(reach, clip.frame_counts, applied)

    def _merge_frames(self, clip: PreparedClip, leaf: Tensor, rounds: DirectedMerging, given: Tensor) -> _Merged:
        """The temporal step."""
        frames = self.spec.frames
        if frames == 1:
            return _Merged(given, torch.full((), FAR), rounds.owner, torch.ones((), dtype=torch.bool))
        similarity = frame_similarity(clip.features, clip.norms, leaf, self.spec.head_dim).flatten()  # [T·N]
        # Entry t·N + p is the pair of frames t - 1 and t: the first frame has none.
        later = torch.arange(frames, dtype=torch.int32)[:, None] > 0
        pairs = (clip.frame_counts & later).expand(leaf.shape).flatten()

        def count(thresholds: Tensor) -> Tensor:
            kept = (similarity >= thresholds[:, None]) & pairs  # [Q, T·N]
            representatives, _ = rounds(kept, search_rounds(frames))
            roots = (representatives == self._cell_numbers()) & clip.cell_counts
            return roots.float().sum(1)

        applied, effective = given, torch.where(given > 0, given, NOTHING_MERGES)  # 0 or less skips the step
        if self.spec.policy == "budget":
            applied = effective = self.solver.solve_temporal(similarity, pairs, count, clip.budget)
        elif self.spec.budget < 1.0:
            solved = self.solver.solve_temporal(similarity, pairs, count, clip.budget)
            fits = count(effective[None])[0] <= clip.budget
            applied, effective = torch.where(fits, given, solved), torch.where(fits, effective, solved)
        # More rounds than candidates are counted with: they can only merge more, which never breaks the budget.
        kept = (similarity >= effective) & pairs
        representatives, converged = rounds(kept[None], unrolled_rounds(frames))
        compared = pairs & (effective < NOTHING_MERGES)
        return _Merged(applied, margin(similarity, compared, effective), representatives[0], converged[0])

    def _cell_numbers(self) -> Tensor:
        """[T·N] int32: t·N + p. A leaf is its own representative, and a cell its owner, where they hold this."""
        return torch.arange(self.spec.frames * self.spec.cells, dtype=torch.int32)

    def _pack(
        self, clip: PreparedClip, leaf: Tensor, owner: Tensor, representatives: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Gather the groups into K slots, ascending in (t, y, x) of their representatives (section 4)."""
        budget, cell, counts = self.spec.max_tokens, self._cell_numbers(), clip.cell_counts

        # Sort: a token's slot is the number of roots before its own; leaves in the order of their slots (rule 7.5).
        roots = ((representatives == cell) & counts).float()
        num_tokens = roots.sum().to(torch.int32)
        slot = exclusive_sum(roots).gather(0, representatives.long()).clamp(max=budget)
        slot = torch.where(counts, slot, float(budget))  # [T·N]; K: of no slot
        padding = (0, padded_rows(len(cell)) - len(cell))
        keys = F.pad(
            torch.where(owner == cell, slot, float(budget)), padding, value=float(budget)
        )  # [M]: cells, padded
        order = stable_order(keys, budget.bit_length()).long()
        slots = keys.gather(0, order).to(torch.int32)
        first, end = segment_bounds(slots, budget)  # [K] each
        # Entries of no slot meet the others in a MatMul, where 0 · NaN would spoil their window: they read zeros.
        blank = self.nodes.count
        sorted_leaf = torch.where(slots < budget, F.pad(leaf.flatten(), padding).gather(0, order), blank)  # [M]

        # Sum, each leaf with its share of its token (rules 4.1 and 4.2).
        area = torch.from_numpy(self.nodes.areas).gather(0, sorted_leaf.clamp(max=blank - 1).long())
        area = torch.where(slots < budget, area, 0).float()
        ahead = exclusive_sum(area)
        patches = ahead.gather(0, end.long()) - ahead.gather(0, first.long())  # [K]
        divisor = patches if self.spec.weighted_avg else (end - first).float()
        weights = torch.cat([1.0 / divisor.clamp(min=1.0), torch.ones(1)]).gather(0, slots.long())
        tokens = segment_sum(clip.features.take(sorted_leaf), weights, slots, first, end)

        # Describe. The sort is stable, so the first of a group is its representative.
        used = end > first
        representative = sorted_leaf.gather(0, first.long()).clamp(max=blank - 1)
        box = torch.from_numpy(self.nodes.boxes).index_select(0, representative)
        box = torch.where(used[:, None], box, -1)
        assignment = torch.where(clip.frame_counts, slot.to(torch.int32).view(leaf.shape), -1)
        return tokens, num_tokens, box, patches.to(torch.int32), assignment
