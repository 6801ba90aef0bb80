"""What a family gives to the workflows: the parts of a model, in the order in which data passes through them.

A part is one graph: what is exported, a reference that shares no code with it, what both are tried on, and how their
outputs are judged. Export, validation and the drift finder are loops over parts; none of them knows a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.graph import JudgedGraph
from sttm_export.contracts.losses import Losses
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.recipe import Recipe
from sttm_export.quantization.points import Point
from sttm_export.runtime.session import Session
from sttm_export.weights.layout import CheckpointForm, Shape

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]
State = Mapping[str, "Tensor"]
Progress = Callable[[int, int], None]
Stage = Callable[[Arrays, Arrays], Arrays]
"""Inputs of the graph and what the exported module made of them → the graph's outputs, by name."""


@dataclass(frozen=True)
class Case:
    """Inputs that every stage of a part is run on."""

    key: str  # names its fixture; empty for a case that none is packed of
    name: str  # for messages: `4 frames`, `an edge clip: all zeros`
    inputs: Arrays
    exact: bool = False  # the graph must decide as the module does: nothing in this input is left to rounding
    edge: bool = False  # not of the clip that is validated on


@dataclass(frozen=True)
class Quantizing:
    """How weights of a part become fewer bits, and what that loses.

    Module, eager and reference of the part take quantized weights, and quantize others themselves.
    """

    # Weights as they were read → quantized ones, and what each has lost.
    apply: Callable[[State, Progress], tuple[State, Losses]]
    # Both, and what the clip has become before this part → what outputs lose, and what the next part needs for that.
    measure: Callable[[State, State, Arrays, Progress], tuple[Losses, Arrays]]


@dataclass(frozen=True)
class Part:
    """One graph of a model and all that is needed to export, try it."""

    graph: JudgedGraph
    # Canonical name → shape of the parameters; only these are read of a checkpoint.
    shapes: Mapping[str, Shape]
    module: Callable[[State], nn.Module]  # the module that is exported, in the graph's precision
    eager: Callable[[State], Stage]  # the same, run eagerly; its second argument is not read
    reference: Callable[[State], Stage]  # what the published model computes
    # From what the clip has become before this part, by tensor name.
    cases: Callable[[Arrays], Iterator[Case]]
    # A loaded graph over the whole clip: what the next part gets beside what this one got.
    forward: Callable[[Session, Arrays, Progress], Arrays]
    calls: Callable[[int], int]  # of the graph that `forward` makes for a clip of so many frames, about
    # What the clip had become, from the inputs of its fixture; None where the reference needs weights.
    clip_of: Callable[[Arrays], Arrays] | None = None
    quantizing: Quantizing | None = None  # None where weights are stored as floats
    operations: int = 0  # multiplications and additions of one call with its weights
    points: tuple[Point, ...] = ()  # of a vision encoder: the tensors that int8 products may read
    activations: int = 0  # bytes of the largest tensors that are alive at once in float32, weights left out

    @property
    def name(self) -> str:
        """Name of the graph."""
        return self.graph.name

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


@dataclass(frozen=True)
class Family:
    """One kind of model."""

    parts: Callable[[Recipe], tuple[Part, ...]]  # in the order of the data
    checkpoint: Callable[[ModelSpec], CheckpointForm]  # how its checkpoints look
    # Mean and standard deviation of a random parameter, by canonical name and shape.
    distribution: Callable[[ModelSpec, str, Shape], tuple[float, float]]
