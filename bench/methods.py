"""Every way to fewer tokens that is compared, by name: STTM as the merger does it, and the peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.peers import dycoke, evs, frame_dropping, framefusion, spatial_pooling, tome
from bench.peers.reduced import Features, OutOfReach, Reduced
from sttm_export.contracts.merge import MergeSpec, Policy
from sttm_export.errors import UserError
from sttm_export.families.registry import load_model

MODEL = "llava-video-7b"
"""Whose published thresholds are given; the spatial one is a floor in policy `budget`."""

PEERS: dict[str, tuple[str, Callable[[Features, int], Reduced]]] = {
    "tome-clip": ("ToMe, whole clip", tome.per_clip),
    "tome-frame": ("ToMe, per frame", tome.per_frame),
    "framefusion": ("FrameFusion, merging", framefusion.reduce),
    "evs": ("EVS-like pruning", evs.reduce),
    "dycoke": ("DyCoke, stage 1", dycoke.reduce),
    "pooling": ("uniform pooling", spatial_pooling.reduce),
    "frames": ("frame dropping", frame_dropping.reduce),
}
STTM = {
    "sttm-budget": "STTM, policy budget",
    "sttm-calibrated": "STTM, spatial threshold of other clips",
    "sttm-threshold": "STTM, policy threshold",
    "sttm-published": "STTM, published thresholds",
}
TITLES = STTM | {name: title for name, (title, _) in PEERS.items()}


@dataclass(frozen=True)
class Merged:
    """What STTM made of a clip."""

    reduced: Reduced
    thresholds: tuple[float, float]  # applied


def sttm(
    features: Features,
    budget: float,
    policy: Policy,
    thresholds: tuple[float, float] | None = None,
) -> Merged:
    """Run the module that is exported, in PyTorch.

    Args:
        features: [T, H, W, C].
        budget: share of tokens.
        policy: who chooses thresholds.
        thresholds: given; None for those that were published for the budget nearest.

    Raises:
        OutOfReach: the budget does not hold one frame's tokens.
    """
    import torch

    from sttm_export.merging.static import TokenMerger

    frames, height, width, channels = features.shape
    try:
        spec = MergeSpec(frames, height, width, channels, budget, policy)
    except UserError as error:
        raise OutOfReach(str(error)) from error
    given = thresholds or published(budget)
    cells = torch.from_numpy(np.ascontiguousarray(features.reshape(frames, -1, channels), np.float32))
    with torch.inference_mode():
        tokens, count, _, _, assignment, applied, *_ = TokenMerger(spec)(
            cells, torch.tensor(frames, dtype=torch.int32), *(torch.tensor(value) for value in given)
        )
    reduced = Reduced(tokens[: int(count)].numpy(), assignment.numpy())
    return Merged(reduced, (float(applied[0]), float(applied[1])))


def published(budget: float) -> tuple[float, float]:
    """Spatial and temporal threshold that were published for the budget nearest."""
    found = load_model(MODEL).published_thresholds(budget)
    return found.spatial, found.temporal


def published_pairs() -> list[tuple[float, float]]:
    """Pairs of the 7B model's defaults, which merges at layer 2, and of the 72B's, which merges projected features."""
    models = [load_model(name) for name in (MODEL, "llava-video-72b")]
    found = [model.published_thresholds(budget) for model in models for budget in (0.5, 0.3)]
    return [(one.spatial, one.temporal) for one in found]
