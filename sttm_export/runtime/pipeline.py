"""Frames → features → merged tokens, on whatever session runs the graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.session import Session

Progress = Callable[[int, int], None]


def encode_frames(
    session: Session, spec: GraphSpec, pixel_values: NDArray[np.floating], on_progress: Progress | None = None
) -> NDArray[np.floating]:
    """Run the vision encoder over any number of frames, B at a time.

    A last batch that is not full repeats its final frame, and the repeats are cut off again: the graph is static.

    Args:
        session: runs the vision encoder.
        spec: its declaration; B, S, N and C come from it.
        pixel_values: [n, 3, S, S].
        on_progress: called with (frames done, n) after each batch.

    Returns:
        [n, N, C] in the graph's dtype.

    Raises:
        UserError: no frames, or frames of another size than the graph takes.
    """
    pixels, features = spec.inputs[0], spec.outputs[0]
    if pixel_values.shape[1:] != pixels.shape[1:] or len(pixel_values) == 0:
        raise UserError(
            f"The vision encoder takes frames of {list(pixels.shape[1:])}, got {list(pixel_values.shape)}; "
            f"preprocess at least one frame to {pixels.shape[2]}x{pixels.shape[3]}."
        )
    n, batch = len(pixel_values), pixels.shape[0]
    result = np.empty((n, *features.shape[1:]), features.dtype)
    for start in range(0, n, batch):
        part = _pad_batch(pixel_values[start : start + batch], batch).astype(pixels.dtype)
        used = min(batch, n - start)
        result[start : start + used] = session.run({pixels.name: part})[features.name][:used]
        if on_progress:
            on_progress(start + used, n)
    return result


def merge_features(
    session: Session,
    merge: MergeSpec,
    features: NDArray[np.floating],
    num_frames: int,
    spatial: float,
    temporal: float,
) -> MergedTokens:
    """Run the token merger on the first `num_frames` frames.

    Args:
        session: runs the token merger.
        merge: its constants; they give the tokens that so many frames may keep.
        features: [n, N, C] with n >= num_frames; padded with zero frames up to T.
        num_frames: frames that count, 1 to T.
        spatial: cosine at which four children merge into their parent.
        temporal: cosine at which tokens of consecutive frames merge; a bundle with the policy `budget` solves its own.

    Raises:
        UserError: more frames than T, none, or features of another shape.
    """
    declared = session.graph.inputs[0]
    bound = declared.shape[0]
    if features.ndim != 3 or features.shape[1:] != declared.shape[1:]:
        raise UserError(
            f"The token merger takes features [n, {declared.shape[1]}, {declared.shape[2]}], got "
            f"{list(features.shape)}; encode the frames with the vision encoder of the same bundle."
        )
    _check_frames(len(features), num_frames, bound)
    padded = np.zeros(declared.shape, declared.dtype)
    padded[:num_frames] = features[:num_frames]
    outputs = session.run(
        {
            "features": padded,
            "num_frames": np.array(num_frames, np.int32),
            "spatial_threshold": np.array(spatial, np.float32),
            "temporal_threshold": np.array(temporal, np.float32),
        }
    )
    return MergedTokens.from_outputs(outputs, num_frames, merge)


def _check_frames(given: int, num_frames: int, bound: int) -> None:
    if num_frames > bound:
        raise UserError(
            f"{num_frames} frames are more than the {bound} this bundle was exported for; sample at most {bound}, or "
            f"export again with --frames {num_frames}."
        )
    if not 1 <= num_frames <= given:
        raise UserError(f"Cannot merge {num_frames} of {given} frames; give a number from 1 to {given}.")


def _pad_batch(frames: NDArray[np.floating], batch: int) -> NDArray[np.floating]:
    missing = batch - len(frames)
    return np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)]) if missing else frames
