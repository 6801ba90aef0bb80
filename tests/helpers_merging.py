"""Running the two merger implementations side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sttm_export.contracts.merge import MergeSpec
from sttm_export.merging.reference import Merged, merge
from sttm_export.merging.static import TokenMerger

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))
REAL_CLIPS = [path for path in GOLDEN if path.stem.split("_")[0] in {"bunny", "bikes", "carphone"}]


@dataclass(frozen=True)
class StaticResult:
    tokens: Tensor
    num_tokens: int
    token_box: Tensor
    token_patches: Tensor
    assignment: Tensor
    thresholds: tuple[float, float]
    converged: bool
    margins: tuple[float, float]


@dataclass(frozen=True)
class Golden:
    features: Tensor  # [T, C, H, W] float32
    spatial: float
    temporal: float
    constants: dict  # root_level, weighted_avg, head_dim
    tokens: np.ndarray
    num_patches: np.ndarray
    boxes: np.ndarray


def load_golden(path: Path) -> Golden:
    data = np.load(path)
    constants = {
        "root_level": int(data["root_level"]),
        "weighted_avg": bool(data["weighted_avg"]),
        "head_dim": int(data["head_dim"]),
    }
    return Golden(
        torch.from_numpy(data["features"].astype(np.float32)),
        float(data["spatial_threshold"]),
        float(data["temporal_threshold"]),
        constants,
        data["tokens"],
        data["num_patches"],
        data["tyxyx"],
    )


def run_static(features: Tensor, spec: MergeSpec, spatial: float, temporal: float, num_frames: int | None = None):
    """Run the static merger eagerly on [T, C, H, W]."""
    frames = features.shape[0] if num_frames is None else num_frames
    cells = features.flatten(2).transpose(1, 2)
    with torch.no_grad():
        out = TokenMerger(spec)(
            cells, torch.tensor(frames, dtype=torch.int32), torch.tensor(spatial), torch.tensor(temporal)
        )
    tokens, count, box, patches, assignment, thresholds, converged, margins = out
    return StaticResult(
        tokens,
        int(count),
        box,
        patches,
        assignment,
        (float(thresholds[0]), float(thresholds[1])),
        bool(converged),
        (float(margins[0]), float(margins[1])),
    )


def spec_for(features: Tensor, budget: float, policy: str = "budget", **constants) -> MergeSpec:
    frames, channels, height, width = features.shape
    return MergeSpec(frames, height, width, channels, budget, policy, **constants)


def assert_equal_merge(static: StaticResult, reference: Merged, atol: float = 1e-5) -> None:
    """Same counts, boxes, areas, assignment; tokens within `atol`; the rest of the slots empty."""
    n = len(reference.boxes)
    assert static.converged
    assert static.num_tokens == n
    assert torch.equal(static.token_box[:n].long(), reference.boxes)
    assert torch.equal(static.token_patches[:n].long(), reference.num_patches)
    frames = reference.assignment.shape[0]
    assert torch.equal(static.assignment[:frames].long(), reference.assignment)
    scale = max(1.0, float(reference.tokens.abs().max()))
    assert float((static.tokens[:n].float() - reference.tokens).abs().max()) <= atol * scale
    assert bool((static.token_box[n:] == -1).all())
    assert bool((static.tokens[n:] == 0).all())
    assert bool((static.token_patches[n:] == 0).all())
    assert bool((static.assignment[frames:] == -1).all())


def decisions(result: Merged) -> tuple[list, list]:
    return result.leaves.boxes.tolist(), result.representatives.tolist()


def is_stable(features: Tensor, spatial: float, temporal: float, band: float, **constants) -> bool:
    """Whether every decision keeps when either threshold moves by `band`: then a difference is a fault of logic."""
    wanted = decisions(merge(features, spatial, temporal, **constants))
    moves = [(band, 0.0), (-band, 0.0), (0.0, band), (0.0, -band)]
    return all(decisions(merge(features, spatial + s, temporal + t, **constants)) == wanted for s, t in moves)
