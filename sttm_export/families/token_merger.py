"""The part that every family shares: features → merged tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import CLIP, Judge, JudgedGraph
from sttm_export.contracts.merge import NOTHING_MERGES
from sttm_export.contracts.model import counted
from sttm_export.contracts.recipe import Recipe
from sttm_export.errors import UserError
from sttm_export.families.edge_cases import edge_clips
from sttm_export.families.part import Arrays, Case, Part, Progress
from sttm_export.merging.outputs import reference_outputs, static_outputs
from sttm_export.merging.static import TokenMerger
from sttm_export.runtime.pipeline import merger_inputs
from sttm_export.runtime.session import Session

# The merger keeps the pyramid (4/3 of the features), the summed copy and the output, in eager and in ONNX Runtime.
_COPIES = 5


def token_merger(recipe: Recipe) -> Part:
    """Return the part of the token merger.

    Raises:
        UserError: a grid or level that cannot be merged.
    """
    merger, merge = TokenMerger(recipe.merge), recipe.merge

    def eager(inputs: Arrays, _: Arrays) -> Arrays:
        return static_outputs(merger, inputs)

    def reference(inputs: Arrays, solved: Arrays) -> Arrays:
        # The published method has no budget; the reference runs at the thresholds that were solved for it.
        spatial, temporal = map(float, cast("NDArray[np.float32]", solved["thresholds_applied"]))
        # At a threshold <= 0 the temporal step runs where that was solved, not where it was given.
        forced = merge.policy == "budget" or temporal != float(inputs["temporal_threshold"])
        return reference_outputs(merge, inputs, (spatial, temporal), True if forced else None)

    return Part(
        graph=JudgedGraph.of(recipe.merger_graph, Judge("decisions")),
        shapes={},
        module=lambda _: merger,
        eager=lambda _: eager,
        reference=lambda _: reference,
        cases=partial(_cases, recipe),
        forward=partial(_forward, recipe),
        calls=lambda _: 1,
        clip_of=partial(_clip_of, recipe),
        activations=4 * _COPIES * merge.frames * merge.cells * merge.channels,
    )


def _cases(recipe: Recipe, clip: Arrays) -> Iterator[Case]:
    """The clip, a part of it, without spatial merging, and edge clips; one in memory at a time.

    The third makes sure that merging across frames is seen at work: where the spatial step alone meets the budget, the
    clip itself would not show it. On the edge clips the graph must decide exactly as the module does.
    """
    graph, thresholds = recipe.merger_graph, (recipe.thresholds.spatial, recipe.thresholds.temporal)
    features = cast("NDArray[np.floating]", clip["features"])
    count, part, step = len(features), max(1, len(features) // 3), recipe.model.step
    yield Case(CLIP, counted(count, step), merger_inputs(graph, features, count, *thresholds))
    if part < count:
        yield Case("", counted(part, step), merger_inputs(graph, features, part, *thresholds))
    across_frames = merger_inputs(graph, features, count, NOTHING_MERGES, thresholds[1])
    yield Case("", f"merging across frames alone, {counted(count, step)}", across_frames)
    for edge in edge_clips(recipe.merge, graph.inputs[0].dtype):
        inputs = merger_inputs(graph, edge.features, edge.frames, *edge.thresholds)
        # Frames that do not count are as the clip has them, not zeros.
        whole = {**inputs, "features": edge.features}
        yield Case(edge.key, f"an edge clip: {edge.name}", whole, exact=True, edge=True)


def _forward(recipe: Recipe, session: Session, clip: Arrays, _: Progress) -> Arrays:
    features = cast("NDArray[np.floating]", clip["features"])
    limits = recipe.thresholds
    return session.run(merger_inputs(recipe.merger_graph, features, len(features), limits.spatial, limits.temporal))


def _clip_of(recipe: Recipe, inputs: Arrays) -> Arrays:
    count, bound = int(inputs["num_frames"]), recipe.merge.frames
    if not 1 <= count <= bound:
        raise UserError(
            f"The token merger's fixture is of {count} frames, the graph takes 1 to {bound}; export the bundle again."
        )
    return {"features": inputs["features"][:count]}
