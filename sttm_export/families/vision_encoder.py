"""The part that every family begins with: frames → projected tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sttm_export.contracts.graph import CLIP, GraphSpec, Judge, JudgedGraph
from sttm_export.contracts.model import ModelSpec, counted
from sttm_export.contracts.recipe import Recipe
from sttm_export.families.edge_cases import edge_pixels
from sttm_export.families.modules import as_stage, build_module
from sttm_export.families.part import Arrays, Case, Part, Progress, State
from sttm_export.quantization.module import fold, quantize_module
from sttm_export.quantization.points import Point
from sttm_export.runtime.pipeline import encode_frames
from sttm_export.runtime.sampling import uniform
from sttm_export.runtime.session import Session
from sttm_export.weights.layout import Shape

EDGES = "edge frames: grey, black, white, chessboards"


def vision_encoder(
    recipe: Recipe,
    *,
    judge: Judge,
    shapes: Mapping[str, Shape],
    module: Callable[[], nn.Module],
    reference: Callable[[State], nn.Module],
    points: tuple[Point, ...],
    attention_blocks: int,
    patches: int,
    activations: int,
) -> Part:
    """Return the part of a vision encoder.

    Args:
        recipe: of the export; its model says what goes in and out.
        judge: depth and sums of the tower.
        shapes: canonical parameters.
        module: makes the exported module, called on the meta device: `pixel_values` → `features`.
        reference: makes the published model from a state, float32, the same way in and out.
        points: where products can be int8.
        attention_blocks: blocks that an engine should fuse.
        patches: of one call.
        activations: see `Part`.
    """
    graph = JudgedGraph.of(recipe.encoder_graph, replace(judge, int8=bool(recipe.ranges)), attention_blocks)

    def build(state: State) -> nn.Module:
        folded = fold(state, points, recipe.ranges)
        return quantize_module(build_module(module, folded, recipe.precision), folded, points, recipe.ranges)

    return Part(
        graph=graph,
        shapes=shapes,
        module=build,
        # Weights are rounded to the graph's precision, products are float32.
        eager=lambda state: as_stage(build(state), graph),
        reference=lambda state: as_stage(reference(state), graph),
        cases=partial(_cases, graph, recipe.model),
        forward=partial(_forward, graph, recipe.model.frames_per_step),
        calls=lambda frames: -(-frames // recipe.batch),
        operations=2 * patches * sum(prod(shape) for shape in shapes.values()),
        points=points,
        activations=activations,
    )


def _cases(graph: GraphSpec, model: ModelSpec, clip: Arrays) -> Iterator[Case]:
    """A batch of frames spread over the clip, and edge frames: the very numbers that the graph gets."""
    pixels, frames_per_step = graph.inputs[0], model.frames_per_step
    batch = pixels.shape[0]
    values = _steps(cast("NDArray[np.floating]", clip[pixels.name]), frames_per_step)
    chosen = uniform(len(values), batch // frames_per_step)
    frames = counted(len(set(chosen)) * frames_per_step, "frame")
    yield Case(CLIP, frames, _filled(graph, values[chosen]))
    edges = edge_pixels(batch // frames_per_step, model.pixels, pixels.dtype).repeat(frames_per_step, axis=0)
    yield Case("edges", EDGES, _filled(graph, edges), edge=True)


def _steps(frames: NDArray[np.floating], frames_per_step: int) -> NDArray[np.floating]:
    """[n, 3, H, W] → [n / s, s, 3, H, W]."""
    return frames.reshape(-1, frames_per_step, *frames.shape[1:])


def _filled(graph: GraphSpec, frames: NDArray[np.floating]) -> Arrays:
    """As many frames as the graph takes, repeated from the first where there are fewer."""
    pixels = graph.inputs[0]
    return {pixels.name: np.resize(frames, pixels.shape).astype(pixels.dtype)}


def _forward(graph: GraphSpec, frames_per_step: int, session: Session, clip: Arrays, progress: Progress) -> Arrays:
    """The frames of the case come first, as one batch: a session that has run them need not do it again."""
    pixels, features = graph.inputs[0], graph.outputs[0]
    values = _steps(cast("NDArray[np.floating]", clip[pixels.name]), frames_per_step)
    chosen = uniform(len(values), pixels.shape[0] // frames_per_step)
    order = [*chosen, *sorted(set(range(len(values))) - set(chosen))]
    encoded = encode_frames(session, graph, values[order].reshape(-1, *pixels.shape[1:]), progress)
    made = np.empty_like(encoded)
    made[order] = encoded
    return {features.name: made}
