"""What a model is, whatever its kind: pixels, grid, channels, sampling, thresholds. Read from `models/*.toml`.

The table `architecture` belongs to the model's family (`families/`), which reads and checks it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.prompt import PromptSpec
from sttm_export.contracts.records import Cosine, Range, Share, Size

MAX_FPS = 1000.0
"""Frames a second; cameras and screens end far below."""
Side = Annotated[int, Range(1, 16384)]
Color = Annotated[float, Range(-1000.0, 1000.0)]
Spread = Annotated[float, Range(0.0, 1000.0, above=True)]


@dataclass(frozen=True)
class PixelSpec:
    """What the vision encoder sees of a frame: RGB at this size, each channel (value/255 - mean) / std."""

    height: Side
    width: Side
    mean: tuple[Color, Color, Color]
    std: tuple[Spread, Spread, Spread]


@dataclass(frozen=True)
class GridSpec:
    """The H×W tokens of one step."""

    height: Annotated[int, Range(1, 1024)]
    width: Annotated[int, Range(1, 1024)]

    @property
    def cells(self) -> int:
        """N = H·W, tokens a step."""
        return self.height * self.width


@dataclass(frozen=True)
class SamplingSpec:
    """Frame sampling of the published evaluation."""

    fps: Annotated[float, Range(0.0, MAX_FPS, above=True)]
    max_frames: Size


@dataclass(frozen=True)
class PublishedThresholds:
    """A row of the paper's threshold table (docs/semantics.md, section 6)."""

    budget: Share
    spatial: Cosine
    temporal: Cosine


@dataclass(frozen=True)
class MergingDefaults:
    """How the paper merges this model's tokens."""

    root_level: Annotated[int, Range(-1, 30)]
    published_layer: Annotated[int, Range(0, 1000)]
    positions: str
    thresholds: tuple[PublishedThresholds, ...]


@dataclass(frozen=True)
class ModelSpec:
    """One entry of `models/`."""

    name: str
    title: str
    hub_id: str
    family: str
    channels: Size  # C, width of the projected tokens and of the language model
    pixels: PixelSpec
    grid: GridSpec
    architecture: dict[str, Any]  # read by the family
    sampling: SamplingSpec
    merging: MergingDefaults
    frames_per_step: Annotated[int, Range(1, 64)] = 1  # frames that become one H×W grid of tokens
    decoder: DecoderSpec | None = None  # the language model; None where only the vision encoder is known
    prompt: PromptSpec | None = None  # what stands around a video and a question; with a decoder, and only with one

    @property
    def step(self) -> str:
        """What one grid of tokens is of."""
        return "frame" if self.frames_per_step == 1 else f"step of {self.frames_per_step} frames"

    def published_thresholds(self, budget: float) -> PublishedThresholds:
        """Return the published row whose nominal budget is nearest to `budget`."""
        return min(self.merging.thresholds, key=lambda row: abs(row.budget - budget))


def inconsistencies(spec: ModelSpec) -> list[str]:
    """What no model can be although every value of it is possible; empty for one that can be."""
    # It becomes part of a directory's name: no slash, nothing hidden, no name too long for what is put around it.
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", spec.name) is not None
    checks = [
        (plain, f"name must be letters, digits, '.', '_' and '-', at most 100, got {spec.name[:120]!r}"),
        (bool(spec.merging.thresholds), "'merging.thresholds' needs at least one table"),
        (
            (spec.decoder is None) == (spec.prompt is None),
            "decoder and prompt belong together, and one of them is missing",
        ),
    ]
    if decoder := spec.decoder:
        merging = spec.merging
        made = f"{decoder.heads} heads of {decoder.head_dim} channels make {decoder.hidden_size}"
        checks += [
            (decoder.hidden_size == spec.channels, f"decoder: {made}, but channels is {spec.channels}"),
            (
                merging.published_layer < decoder.layers,
                f"merging.published_layer is {merging.published_layer}, but the decoder has {decoder.layers} layers",
            ),
            (
                (merging.positions == "representative") == bool(decoder.mrope_section),
                "merging.positions must be 'representative' with decoder.mrope_section, and only with it",
            ),
        ]
    return [message for good, message in checks if not good]


def counted(count: int, noun: str) -> str:
    """`1 frame`, `4 frames`, `4 steps of 2 frames`."""
    first, *rest = noun.split(" ", 1)
    return " ".join([str(count), first + ("" if count == 1 else "s"), *rest])
