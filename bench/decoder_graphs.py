"""What `bench.decoder` measures: its settings, and the graphs that they ask for."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.clip import CLIPS
from bench.measure import GRID
from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.decoding import decoder_graph, head_graph
from sttm_export.contracts.graph import GraphSpec, Precision, token_merger_graph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError

FULL = 1.0
SYSTEM_TOKENS = 20


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        spec: of the decoder.
        frames: T.
        layers: how many are run.
        merge_layer: L, at whose input tokens merge.
        budgets: shares of the video's tokens that are kept, beside all of them.
        question: tokens of a question.
        text: slots for all that is not video.
        chunk: rows a call.
        precision: of weights, keys and values.
        clip: a file of tests/golden.
    """

    spec: DecoderSpec
    frames: int
    layers: int
    merge_layer: int
    budgets: tuple[float, ...] = (0.5, 0.3)
    question: int = 24
    text: int = 1024
    chunk: int = 256
    precision: Precision = "fp16"
    clip: str = CLIPS[0]

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if not 0 <= self.merge_layer < self.layers <= self.spec.layers:
            raise UserError(
                f"Merging at layer {self.merge_layer} of {self.layers} cannot be measured with a decoder of "
                f"{self.spec.layers} layers; give --layers above --merge-layer, and {self.spec.layers} at most."
            )
        if not 1 <= self.question <= self.text - SYSTEM_TOKENS:
            raise UserError(f"A question of {self.question} tokens does not fit into {self.text} slots for text.")
        for budget in self.budgets:
            self.merge(budget)

    @property
    def shares(self) -> tuple[float, ...]:
        """Rows of the result."""
        return (FULL, *self.budgets)

    def merge(self, budget: float) -> MergeSpec:
        """The merger's constants."""
        return MergeSpec(self.frames, *GRID, self.spec.hidden_size, budget)

    def slots(self, share: float) -> int:
        """M, of the buffers for so much of the video."""
        return self.merge(share).max_tokens + self.text

    def layer_graph(self, share: float) -> GraphSpec:
        """One layer, with buffers for so much of the video."""
        return decoder_graph(self.spec, 0, 1, self.slots(share), self.chunk, self.precision)

    def layer_folder(self, share: float) -> str:
        """Where its graph lies; settings that make another graph make another name."""
        return f"layer-{self.slots(share)}-{self.chunk}-{self.precision}"

    def merger_folder(self, budget: float) -> str:
        """Where the merger's graph lies."""
        return f"merger-{self.frames}-{budget:g}"

    def head_folder(self) -> str:
        """Where the head's graph lies."""
        return f"head-{self.precision}"


def export_all(settings: Settings, folder: Path) -> None:
    """Write every graph that is not there yet, each in a folder of its own."""
    for share in settings.shares:
        _export_once(folder / settings.layer_folder(share), settings.layer_graph(share), partial(_layer, settings))
    for budget in settings.budgets:
        merge = settings.merge(budget)
        _export_once(
            folder / settings.merger_folder(budget), token_merger_graph(merge, "fp32"), partial(_merger, merge)
        )
    _export_once(folder / settings.head_folder(), head_graph(settings.spec), partial(_head, settings))


def _export_once(folder: Path, graph: GraphSpec, make: Callable[[], Any]) -> None:
    from sttm_export.graphs.export import export_graph

    if not (folder / graph.onnx_file).is_file():
        export_graph(make(), graph, folder)


def _layer(settings: Settings) -> Any:
    from sttm_export.language.checkpoint import group_shapes
    from sttm_export.language.decoder import DecoderGroup

    return _random(settings, lambda: DecoderGroup(settings.spec, 0, 1), group_shapes(settings.spec, 0, 1))


def _head(settings: Settings) -> Any:
    from sttm_export.language.checkpoint import head_shapes
    from sttm_export.language.decoder import Head

    return _random(settings, lambda: Head(settings.spec), head_shapes(settings.spec))


def _merger(merge: MergeSpec) -> Any:
    from sttm_export.merging.static import TokenMerger

    return TokenMerger(merge)


def _random(settings: Settings, make: Callable[[], Any], shapes: Mapping[str, Any]) -> Any:
    from sttm_export.families.modules import build_module
    from sttm_export.language.checkpoint import distribution, module_state
    from sttm_export.weights.random import RandomWeights

    weights = RandomWeights(partial(distribution, settings.spec), 0).read(shapes)
    return build_module(make, module_state(weights), settings.precision)


def run_alone(function: Callable[..., None], *arguments: Any) -> None:
    """Run in a process of its own: what exporting leaves behind in memory is not what is measured."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()
