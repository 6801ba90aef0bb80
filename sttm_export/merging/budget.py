"""Thresholds from a token budget, solved inside the graph (docs/semantics.md, section 8). No data-dependent op."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sttm_export.contracts.merge import MergeSpec
from sttm_export.merging.grouping import exclusive_sum
from sttm_export.merging.ladder import build_ladder, compact, least_gap, pick, rounding_band

EVERYTHING_MERGES = -2.5
"""Below every similarity, the invalid ones among them: where the last gap ends."""

ALIKE = 0.005
"""Share of K by which thresholds may differ in tokens and still be chosen by their gap alone."""

SLACK = 1 / 16
"""Leaves beyond K that the spatial step is asked for: room to merge what hardly changes from frame to frame."""

FAR = 4.0
"""A margin where nothing was compared: farther than two cosines can lie apart."""

_CANDIDATES = 8
_STAGES = 4  # 8**4 = 4096 gaps: all but every second one at T = 32, every sixth at T = 128

Count = Callable[[Tensor], Tensor]
"""Tokens [Q] float32 that the temporal step leaves at each of Q thresholds."""


class BudgetSolver:
    """Solves both thresholds of a merger; what does not depend on the clip is fixed here."""

    def __init__(self, spec: MergeSpec) -> None:
        """Derive the constants of rule 8.4 from the channels that a similarity sums over."""
        channels = spec.head_dim or spec.channels
        self.spec = spec
        self.top = 1.0 - rounding_band(channels)
        self.least_gap = least_gap(channels)

    def clip_budget(self, num_frames: Tensor) -> Tensor:
        """Tokens that a clip of so many frames may keep, scalar float32 (rule 8.1)."""
        table = np.array([self.spec.clip_budget(n) for n in range(self.spec.frames + 1)], np.float32)
        return torch.from_numpy(table).index_select(0, num_frames.clamp(0, self.spec.frames).view(1))[0]

    def solve_spatial(self, reach: Tensor, gain: Tensor, roots: Tensor, given: Tensor, budget: Tensor) -> Tensor:
        """Raise the spatial threshold just so far that the spatial step leaves K tokens and some to spare (rule 8.2).

        Args:
            reach: [T, P] float32, see `quadtree.reaches`.
            gain: [T, P] float32, leaves that opening a node adds.
            roots: scalar float32, leaves if no node is opened.
            given: scalar float32, the threshold asked for; the result is never below it.
            budget: scalar float32, K of this clip.

        Returns:
            Scalar float32.
        """
        ladder = build_ladder(reach, self.top, given, self.least_gap)
        ordered = gain.flatten().gather(0, ladder.order.long())
        # A threshold in gap i opens every node but the i that reach furthest.
        leaves = roots + gain.sum() - exclusive_sum(torch.cat([ordered, torch.zeros(1)]))  # [M + 1]
        wanted = budget * (1.0 + SLACK)
        enough = ladder.usable & (leaves >= wanted)
        fewest = torch.where(enough, leaves, torch.inf).amin(0)
        _, solved = pick(enough & (leaves <= fewest + ALIKE * wanted), ladder.gaps, ladder.middles)
        # Where even the highest threshold leaves too few, take all that can be had.
        _, most = pick(ladder.usable, leaves, ladder.middles)
        threshold = torch.where(fewest < torch.inf, solved, most)
        at_given = roots + ((reach < given).float() * gain).sum()
        raised = (at_given < wanted) & (threshold > given)
        return torch.where(raised, self._centre(reach, threshold, floor=given), given)

    def solve_temporal(self, similarity: Tensor, pairs: Tensor, count: Count, budget: Tensor) -> Tensor:
        """Find the temporal threshold that keeps as many tokens as fit into K, in a wide gap (rules 8.3 and 8.4).

        Args:
            similarity: [T·N] float32.
            pairs: [T·N] bool, pairs that exist.
            count: what a threshold is judged by.
            budget: scalar float32, K of this clip.

        Returns:
            Scalar float32.
        """
        bottom = torch.full((), EVERYTHING_MERGES)
        values = torch.where(pairs, similarity, bottom)
        middles, gaps, usable = compact(build_ladder(values, self.top, bottom, self.least_gap))

        def at(places: Tensor) -> tuple[Tensor, Tensor]:
            thresholds = middles.index_select(0, places.to(torch.int32))
            return count(thresholds), thresholds

        # The last gap always fits: with every pair merged, at most one frame's tokens remain.
        low, high = torch.full((), -1.0), usable - 1.0
        best_count, best_place = torch.full((), -1.0), usable - 1.0
        steps = torch.arange(1, _CANDIDATES + 1, dtype=torch.float32) / _CANDIDATES
        for _ in range(_STAGES):
            places = torch.ceil(low + (high - low) * steps)
            counts, _ = at(places)
            fits = counts <= budget
            stage_count, stage_place = pick(fits, counts, places)
            best_place = torch.where(stage_count > best_count, stage_place, best_place)
            best_count = torch.maximum(stage_count, best_count)
            high = torch.where(fits, places, high).amin(0)
            low = torch.where(~fits & (places < high), places, low).amax(0)

        places = self._widest_nearby(gaps, best_place, usable)
        counts, thresholds = at(places)
        alike = (counts <= budget) & (counts >= best_count - ALIKE * budget)
        width, widest = pick(alike, gaps.index_select(0, places.to(torch.int32)), thresholds)
        found = middles.index_select(0, best_place.to(torch.int32).view(1))[0]
        return self._centre(values, torch.where(width > 0, widest, found), floor=bottom)

    def _widest_nearby(self, gaps: Tensor, start: Tensor, usable: Tensor) -> Tensor:
        """[Q] float32: the widest gap of each of Q stretches from `start` on, which together lose about 1 % of K."""
        length = math.ceil(2 * ALIKE * self.spec.max_tokens / _CANDIDATES)
        places = start + torch.arange(_CANDIDATES * length, dtype=torch.float32).view(_CANDIDATES, length)
        places = torch.minimum(places, usable - 1.0)
        found = gaps.index_select(0, places.flatten().to(torch.int32)).view(places.shape)
        return torch.where(found == found.amax(1, keepdim=True), places, -1.0).amax(1)

    def _centre(self, values: Tensor, threshold: Tensor, floor: Tensor) -> Tensor:
        """Move a threshold to the middle of its gap, as exactly as float32 holds it; no decision changes."""
        below = torch.maximum(torch.where(values < threshold, values, floor).flatten().amax(0), floor)
        above = torch.where(values >= threshold, values, self.top).flatten().amin(0).clamp(max=self.top)
        return 0.5 * (below + above)


def margin(values: Tensor, counts: Tensor, threshold: Tensor) -> Tensor:
    """Scalar float32: distance of a threshold to the nearest similarity that it is compared with; 4 if there is none.

    Args:
        values: any shape, float32.
        counts: [..] bool, broadcast to `values`: which of them are compared.
        threshold: scalar.
    """
    return torch.where(counts, (values - threshold).abs(), FAR).flatten().amin(0).clamp(max=FAR)
