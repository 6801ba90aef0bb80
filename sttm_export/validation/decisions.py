"""Do two merge results rest on the same discrete decisions? An allclose on features hides a flipped merge.

Only a graph's outputs can be seen, not its comparisons. So the comparisons are recomputed from the features in float64
(`similarities`), and where results differ, those within the rounding band of their threshold are turned over (`ties`):
if that gives the observed result exactly, the difference is a TIE WITHIN ROUNDING, counted
and shown. If not, it is WRONG.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.merge import MergeSpec
from sttm_export.validation.metrics import encode_float
from sttm_export.validation.outputs import TokenTable, bookkeeping_faults, read_tokens
from sttm_export.validation.quadtree import Quadtree, build_quadtree
from sttm_export.validation.similarities import Similarities, compute_similarities
from sttm_export.validation.ties import Decision, Explanation, Thresholds, decisions_near, explain, rounding_band

Array = NDArray[np.generic]

_CONTRADICTION = "outputs contradict themselves"
_MOST_TIES = 9  # in one root block
_SEARCHED = 96  # decisions looked at to name the cause of a wrong result


@dataclass(frozen=True)
class DecisionReport:
    """Agreement of one merge result with another."""

    passed: bool  # equal but for ties, and no contradiction within the candidate
    reason: str  # one sentence
    num_tokens: tuple[int, int]  # (candidate, reference)
    cells: int  # cells that were compared
    cells_differing: int  # cells that went to a token with another representative or box
    tokens_differing: int  # candidate tokens that the reference does not have
    ties: list[str]  # decisions within the band that explain differences
    wrong: list[str]  # what else differs, as phrases
    cells_undefined: int  # cells of root blocks with NaN or Inf features; nothing is demanded of them
    band: float  # rounding band of a similarity
    band_derivation: str  # its formula with the numbers filled in
    # Applied by (candidate, reference), each (spatial, temporal).
    thresholds: tuple[tuple[float, float], tuple[float, float]]
    excused_cells: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    """[T', N] bool: cells of blocks with ties, whose token floats may differ. Not part of the JSON."""

    @property
    def contradictory(self) -> bool:
        """Whether the candidate's outputs contradict themselves, so that nothing else can be read from them."""
        return any(phrase.startswith(_CONTRADICTION) for phrase in self.wrong)

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        data = asdict(self)
        del data["excused_cells"]
        return data | {"thresholds": [[encode_float(value) for value in pair] for pair in self.thresholds]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DecisionReport:
        """Read back what `to_json` gave."""
        thresholds = tuple(tuple(map(float, pair)) for pair in data["thresholds"])
        return cls(**{**data, "num_tokens": tuple(data["num_tokens"]), "thresholds": thresholds})


def compare_decisions(
    features: NDArray[np.floating],
    merge: MergeSpec,
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    num_frames: int,
    *,
    dtype: str = "float32",
) -> DecisionReport:
    """Compare the discrete outputs of two runs of the token merger.

    Args:
        features: [T, N, C] that both were given.
        merge: constants of the graph.
        reference: outputs of the reference, by the names of the token-merger graph.
        candidate: outputs under test.
        num_frames: frames that count.
        dtype: format the candidate computes similarities in; gives the rounding band.
    """
    return _Comparer(features[:num_frames], merge, dtype).compare(reference, candidate)


def tied_cells(
    features: NDArray[np.floating], merge: MergeSpec, thresholds: tuple[float, float], *, dtype: str = "float32"
) -> NDArray[np.bool_]:
    """[T', N] bool: cells of root blocks with a split test within the rounding band of the spatial threshold.

    Such a tie can hide from `compare_decisions`: a node and its four children may all join one earlier token. No cell
    changes hands, but the token is the mean of other nodes.
    """
    comparer = _Comparer(features, merge, dtype)
    near = decisions_near(comparer.similarities(), comparer.tree, Thresholds(thresholds[0], None), comparer.band)
    blocks = np.unique([int(comparer.tree.cover[0, decision.cell]) for decision in near])
    return np.broadcast_to(np.isin(comparer.tree.cover[0], blocks), features.shape[:2])


class _Comparer:
    def __init__(self, features: NDArray[np.floating], merge: MergeSpec, dtype: str) -> None:
        self.features, self.merge = features, merge
        self.frames = len(features)
        self.tree: Quadtree = build_quadtree(merge.height, merge.width, merge.root_level)
        channels = merge.head_dim or merge.channels
        self.band = rounding_band(channels, dtype)
        self.band_derivation = f"4·u({dtype})·√{channels} = {self.band:.3g}"

    def compare(self, reference: Mapping[str, Array], candidate: Mapping[str, Array]) -> DecisionReport:
        counts = (int(candidate["num_tokens"]), int(reference["num_tokens"]))
        grid = self.frames, self.merge.height, self.merge.width
        faults = [f"{_CONTRADICTION}: {fault}" for fault in bookkeeping_faults(candidate, *grid)]
        faults += [f"{_CONTRADICTION}, the reference's: {fault}" for fault in bookkeeping_faults(reference, *grid)]
        if faults:
            return self._report(counts, (_applied(candidate), _applied(reference)), wrong=faults)
        mine, theirs = (read_tokens(outputs, self.frames, self.merge.width) for outputs in (candidate, reference))
        limits = mine.thresholds, theirs.thresholds
        undefined = self._undefined()
        differs = (mine.keys != theirs.keys) & ~undefined
        extra = int((~np.isin(mine.names, theirs.names)).sum())
        figures: dict[str, Any] = {
            "differing": int(differs.sum()),
            "tokens_differing": extra,
            "undefined": int(undefined.sum()),
        }
        if not differs.any():
            return self._report(counts, limits, **figures)
        ties, wrong, excused = self._explain(mine, theirs, undefined)
        return self._report(counts, limits, ties=ties, wrong=wrong, excused=excused, **figures)

    def _undefined(self) -> NDArray[np.bool_]:
        """[T', N]: cells of root blocks in which a similarity is NaN or Inf: no decision is defined there."""
        bad: NDArray[np.bool_] = np.asarray(~np.isfinite(self.features).all((0, 2)))
        if bad.any():
            # Looked up, not derived from the grid: on odd sides nodes elsewhere look at cell (0, 0) too (section 2).
            similarities = self.similarities()
            for level, least in enumerate(similarities.least):
                bad |= np.asarray(~np.isfinite(least).all(0))[self.tree.cover[level]]
            bad |= ~np.isfinite(similarities.pairs).all((0, 1, 2))
        spoiled = np.isin(self.tree.cover[0], self.tree.cover[0, bad])
        return np.broadcast_to(spoiled, self.features.shape[:2])

    def similarities(self) -> Similarities:
        return compute_similarities(
            self.features, self.tree, weighted_avg=self.merge.weighted_avg, head_dim=self.merge.head_dim
        )

    def _explain(
        self, mine: TokenTable, theirs: TokenTable, undefined: NDArray[np.bool_]
    ) -> tuple[list[str], list[str], NDArray[np.bool_]]:
        similarities = self.similarities()
        limits = self._limits(theirs)
        near = decisions_near(similarities, self.tree, limits, self.band)
        of_mine = explain(similarities, self.tree, limits, mine.keys, near, _MOST_TIES)
        of_theirs = explain(similarities, self.tree, limits, theirs.keys, near, _MOST_TIES)
        flips = _symmetric(of_mine.flips, of_theirs.flips)
        left = (of_mine.unexplained | of_theirs.unexplained) & ~undefined
        if left.any() and (moved := self._moved(similarities, mine, theirs, undefined)) is not None:
            flips, left = moved, np.zeros_like(left)
        ties = [flip.describe(self.merge.width) for flip in flips]
        wrong = self._blame(similarities, limits, mine, theirs, of_theirs, left) if left.any() else []
        blocks = np.unique(self.tree.cover[0, [flip.cell for flip in flips]]) if flips else np.zeros(0, np.int64)
        excused = np.broadcast_to(np.isin(self.tree.cover[0], blocks), left.shape)
        return ties, wrong, excused

    def _moved(
        self, similarities: Similarities, mine: TokenTable, theirs: TokenTable, undefined: NDArray[np.bool_]
    ) -> list[Decision] | None:
        """Ties that explain the candidate under ITS thresholds, or None.

        A solved threshold depends on all decisions before it, so one tie may move it by more than the band. That is a
        consequence of the tie; a threshold that moved without any tie is an error.
        """
        if mine.thresholds == theirs.thresholds or mine.assignment.size == 0:
            return None
        limits = self._limits(mine)
        near = decisions_near(similarities, self.tree, limits, self.band)
        found = explain(similarities, self.tree, limits, mine.keys, near, _MOST_TIES)
        return found.flips if found.flips and not (found.unexplained & ~undefined).any() else None

    def _blame(
        self,
        similarities: Similarities,
        limits: Thresholds,
        mine: TokenTable,
        theirs: TokenTable,
        of_theirs: Explanation,
        left: NDArray[np.bool_],
    ) -> list[str]:
        """Name the first cell of every block that stays unexplained, and the single decision that would explain it."""
        everything = decisions_near(similarities, self.tree, limits, np.inf)
        found = explain(similarities, self.tree, limits, mine.keys, _nearest_per_block(everything, self.tree), 1)
        phrases = []
        for block in np.unique(self.tree.cover[0, left.any(0)]).tolist():
            member = self.tree.cover[0] == block
            t, cell = np.argwhere(left & member)[0].tolist()
            causes = [flip for flip in found.flips if self.tree.cover[0, flip.cell] == block]
            y, x = divmod(cell, self.merge.width)
            place = f"cell ({y}, {x}) of frame {t} went to {_box(mine, t, cell)} instead of {_box(theirs, t, cell)}"
            if of_theirs.unexplained[:, member].any():
                cause = "and the reference itself departs from the float64 recomputation there"
            else:
                described = [flip.describe(self.merge.width) for flip in causes]
                cause = f"as if turned over: {described[0]}" if described else "which no single decision explains"
            phrases.append(f"{place}, {cause}")
        return phrases

    def _limits(self, table: TokenTable) -> Thresholds:
        spatial, temporal = table.thresholds
        # A threshold of at most zero skips the step, unless it is one that the graph solved for itself.
        skipped = temporal <= 0 and self.merge.policy == "threshold"
        return Thresholds(spatial, None if skipped else temporal)

    def _report(
        self,
        counts: tuple[int, int],
        limits: tuple[tuple[float, float], tuple[float, float]],
        *,
        differing: int = 0,
        tokens_differing: int = 0,
        undefined: int = 0,
        ties: list[str] | None = None,
        wrong: list[str] | None = None,
        excused: NDArray[np.bool_] | None = None,
    ) -> DecisionReport:
        ties, wrong = ties or [], wrong or []
        cells = self.frames * self.merge.cells
        return DecisionReport(
            passed=not wrong,
            reason=_reason(cells, differing, ties, wrong),
            num_tokens=counts,
            cells=cells,
            cells_differing=differing,
            tokens_differing=tokens_differing,
            ties=ties,
            wrong=wrong,
            cells_undefined=undefined,
            band=self.band,
            band_derivation=self.band_derivation,
            thresholds=limits,
            excused_cells=excused,
        )


def _applied(outputs: Mapping[str, Array]) -> tuple[float, float]:
    spatial, temporal = np.asarray(outputs["thresholds_applied"], np.float64).tolist()
    return spatial, temporal


def _box(table: TokenTable, t: int, cell: int) -> str:
    return str(tuple(table.box[table.assignment[t, cell]].tolist()))


def _symmetric(a: list[Decision], b: list[Decision]) -> list[Decision]:
    """Decisions on which the two differ."""
    return [d for d in a if d not in b] + [d for d in b if d not in a]


def _nearest_per_block(decisions: list[Decision], tree: Quadtree) -> list[Decision]:
    taken: dict[int, int] = {}
    kept = []
    for decision in decisions:
        block = int(tree.cover[0, decision.cell])
        taken[block] = taken.get(block, 0) + 1
        if taken[block] <= _SEARCHED:
            kept.append(decision)
    return kept


def _reason(cells: int, differing: int, ties: list[str], wrong: list[str]) -> str:
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return f"wrong: {wrong[0]}{more}"
    if differing:
        return f"{differing} of {cells} cells differ, by {len(ties)} ties within rounding"
    return f"all {cells} cells agree"
