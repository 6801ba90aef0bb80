"""What became of the validation clip: figures for the manifest, and frames with their tokens for the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.model import ModelSpec
from sttm_export.runtime.fidelity import fidelity
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.stills import embed_frames
from sttm_export.validation.histograms import similarity_histograms
from sttm_export.validation.metrics import encode_float
from sttm_export.validation.player import ShownClip
from sttm_export.workflows.scene import Scene


def example_json(
    scene: Scene, merged: MergedTokens, features: NDArray[np.floating], merge: MergeSpec, frames_per_step: int
) -> dict[str, Any]:
    """What the manifest says of the validation clip; times are those of the first frame of each step.

    Args:
        scene: the frames.
        merged: what became of them.
        features: [T', N, C] that merged.
        merge: grid and constants.
        frames_per_step: frames that become one of the T'.
    """
    applied = float(merged.thresholds[0]), float(merged.thresholds[1])
    with np.errstate(all="ignore"):  # features that are not finite give figures that say so
        kept = fidelity(features, merged.tokens, merged.assignment)
    histograms = similarity_histograms(features, merge, applied)
    return {
        "clip": scene.name,
        "note": scene.note,
        "num_tokens": merged.num_tokens,
        "max_tokens": merged.max_tokens,
        "tokens_per_frame": merged.new_tokens_per_frame().tolist(),
        "timestamps": [round(float(time), 3) for time in scene.timestamps[::frames_per_step]],
        "thresholds": list(applied),
        "margins": [float(value) for value in merged.margins],
        "converged": merged.converged,
        "fidelity": {
            "relative_error": encode_float(kept.relative_error),
            "cosine": encode_float(kept.cosine),
            "error_of_frame": [encode_float(value) for value in kept.error_of_frame.tolist()],
            "cosine_of_frame": [encode_float(value) for value in kept.cosine_of_frame.tolist()],
        },
        "similarities": {name: histogram.to_json() for name, histogram in histograms.items()},
    }


def shown_clip(scene: Scene, merged: MergedTokens, model: ModelSpec) -> ShownClip:
    """The clip for the report's player, the first frame of each step."""
    frames = scene.frames[:: model.frames_per_step][: merged.num_frames]
    height, width = frames[0].shape[:2]
    times = scene.timestamps[:: model.frames_per_step]
    labels = [f"{time:.2f} s" for time in times[: merged.num_frames]]
    return ShownClip(embed_frames(frames), labels, merged, model.grid, (width, height))
