"""What is merged: sizes, budget, policy and the constants that are fixed at export."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from sttm_export.contracts.records import Cosine, Range
from sttm_export.errors import UserError

Policy = Literal["budget", "threshold"]
POLICIES: tuple[Policy, ...] = ("budget", "threshold")
MAX_FRAMES = 65536
"""Most frames of a clip; memory ends far below."""
NOTHING_MERGES = 2.0
"""A threshold above every cosine. Finite, so that it survives JSON and TensorRT alike."""
SpatialThreshold = Annotated[float, Range(-1.0, NOTHING_MERGES)]
"""A cosine, or `NOTHING_MERGES`. At 1 equal cells still merge, and with them a corner of odd grids (rule 2.3)."""


@dataclass(frozen=True)
class Thresholds:
    """Thresholds a bundle suggests to its users; inputs of the graph, so that tuning needs no new export."""

    spatial: SpatialThreshold
    temporal: Cosine
    source: str

    def given(self, spatial: float | None, temporal: float | None) -> Thresholds:
        """Those that a user gives in the place of these; None leaves one as it is."""
        if spatial is None and temporal is None:
            return self
        return Thresholds(
            self.spatial if spatial is None else spatial, self.temporal if temporal is None else temporal, "given"
        )


def check_thresholds(spatial: float | None, temporal: float | None) -> None:
    """Refuse what no threshold can be; None is not looked at.

    Raises:
        UserError: names the option.
    """
    for name, value in (("spatial", spatial), ("temporal", temporal)):
        most = f", or {NOTHING_MERGES:g}, at which nothing merges within a frame" if name == "spatial" else ""
        if value is None or -1.0 <= value <= 1.0 or (most and value == NOTHING_MERGES):
            continue
        raise UserError(f"--{name}-threshold {value:g} is no cosine; give a number from -1 to 1{most}.")


def check_solved(merge: MergeSpec, temporal: float | None) -> None:
    """Refuse a threshold that the bundle solves itself; None is none.

    Raises:
        UserError: says why it would do nothing.
    """
    if merge.policy == "budget" and temporal is not None:
        raise UserError(
            "--temporal-threshold does nothing here: the bundle has policy budget, which solves it for every clip; "
            "leave it out, or export with --policy threshold."
        )


@dataclass(frozen=True)
class MergeSpec:
    """The token merger's static shape and constants."""

    frames: Annotated[int, Range(1, MAX_FRAMES)]  # T, the most frames one call takes
    height: int  # H of the token grid
    width: int  # W of the token grid
    channels: int  # C
    budget: float  # share of the T·N tokens that are kept, (0, 1]
    # `budget` solves the thresholds that fill the budget, `threshold` uses the given ones and lets the budget only
    # cap (docs/semantics.md, section 8).
    policy: Policy = "budget"
    root_level: int = 1  # index into the pyramid, coarse → fine; -1 for no pyramid (section 1)
    weighted_avg: bool = False  # area-weighted means (sections 1 and 4)
    head_dim: int = 0  # channels a head for per-head similarity, 0 for whole vectors (section 2)

    def __post_init__(self) -> None:
        """Refuse what no graph could be built for; every fault in one message."""
        faults = self._faults()
        if faults:
            raise UserError("Cannot set up the token merger: " + "; ".join(faults) + ".")

    @property
    def cells(self) -> int:
        """N = H·W."""
        return self.height * self.width

    @property
    def max_tokens(self) -> int:
        """K, slots of the graph: the tokens that a clip of T frames may keep."""
        return self.clip_budget(self.frames)

    def clip_budget(self, num_frames: int) -> int:
        """Tokens that a clip of so many frames may keep: floor(budget · frames · N), but one frame's N at least.

        One frame's tokens may remain however much is merged. For T frames fewer than N are refused at export.
        """
        # The tiny excess keeps products like 0.3 · 10 from falling short by rounding.
        share = math.floor(self.budget * num_frames * self.cells + 1e-6)
        return max(share, self.cells) if 0 < num_frames < self.frames else share

    def _faults(self) -> list[str]:
        faults = []
        if not 0.0 < self.budget <= 1.0:
            faults.append(
                f"a budget of {self.budget:g} is outside (0, 1]; give the share of tokens to keep, such as --budget 0.5"
            )
        if not 1 <= self.frames <= MAX_FRAMES:
            faults.append(f"{self.frames} frames are outside 1..{MAX_FRAMES}; give another number with --frames")
        elif min(self.height, self.width, self.channels) < 1:
            faults.append("grid and channels must be at least 1")
        elif not faults and self.max_tokens < self.cells:
            need = math.ceil(1.0 / self.budget - 1e-9)
            faults.append(
                f"{self.frames} frame(s) are too few for a budget of {self.budget:g}: {self.max_tokens} tokens cannot "
                f"hold one frame's {self.cells}, which may remain however much is merged; give --frames {need} or "
                "more, or a larger --budget"
            )
        if self.policy not in POLICIES:
            faults.append(f"unknown policy '{self.policy}', expected one of {', '.join(POLICIES)}")
        if not 0 <= self.head_dim <= self.channels:
            faults.append(f"head_dim {self.head_dim} is outside 0..{self.channels}, where 0 means whole vectors")
        elif self.head_dim and self.channels % self.head_dim:
            faults.append(f"head_dim {self.head_dim} does not divide {self.channels} channels")
        return faults
