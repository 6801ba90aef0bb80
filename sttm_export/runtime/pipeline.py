"""Frames → features → merged tokens, on whatever session runs the graphs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.session import Array, Session

Progress = Callable[[int, int], None]


def encode_frames(
    session: Session, spec: GraphSpec, pixel_values: NDArray[np.floating], on_progress: Progress | None = None
) -> NDArray[np.floating]:
    """Run the vision encoder over any number of frames, B at a time.

    A last batch that is not full repeats its final frame, and the repeats are cut off again: the graph is static.

    Args:
        session: runs the vision encoder.
        spec: its declaration; B, H, W, N and C come from it.
        pixel_values: [n, 3, H, W]; n a multiple of the frames that make one step.
        on_progress: called with (frames done, n) after each batch.

    Returns:
        [steps, N, C] in the graph's dtype.

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
    each = batch // features.shape[0]
    if n % each:
        raise UserError(f"The vision encoder takes {each} frames a step, got {n}; repeat the last one.")
    result = np.empty((n // each, *features.shape[1:]), features.dtype)
    for start in range(0, n, batch):
        part = _pad_batch(pixel_values[start : start + batch], batch).astype(pixels.dtype)
        done = min(start + batch, n)
        made = session.run({pixels.name: part})[features.name]
        result[start // each : done // each] = made[: (done - start) // each]
        if on_progress:
            on_progress(done, n)
    return result


def merger_inputs(
    graph: GraphSpec, features: NDArray[np.floating], count: int, spatial: float, temporal: float
) -> dict[str, Array]:
    """Inputs of the token-merger graph for the first `count` frames of [n, N, C], padded with zeros up to T."""
    declared = graph.inputs[0]
    padded = np.zeros(declared.shape, declared.dtype)
    padded[:count] = features[:count]
    return {"features": padded, **merger_scalars(count, spatial, temporal)}


def merger_scalars(count: int, spatial: float, temporal: float) -> dict[str, Array]:
    """Inputs of the token-merger graph beside the features."""
    return {
        "num_frames": np.array(count, np.int32),
        "spatial_threshold": np.array(spatial, np.float32),
        "temporal_threshold": np.array(temporal, np.float32),
    }


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
    outputs = session.run(merger_inputs(session.graph, features, num_frames, spatial, temporal))
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
