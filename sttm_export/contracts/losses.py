"""What weights of four bits lose against the weights they were made of, as a manifest has it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sttm_export.contracts.records import Count, Number


@dataclass(frozen=True)
class WeightLoss:
    """One weight."""

    name: str  # canonical
    relative: Number  # norm of the difference over the norm of the weight


@dataclass(frozen=True)
class LayerLoss:
    """One layer, on the first rows of the validation clip, in float32."""

    layer: Count
    added: Number  # relative error of what it adds to the residual stream, where its input is exact
    stream: Number  # relative error of the stream behind it, with all layers before it since the merge layer quantized
    rounding: Number = 0.0  # the same of the float16 graph alone, known behind the last layer of a graph


@dataclass(frozen=True)
class LogitsLoss:
    """Logits of the same rows."""

    rows: Count
    head: Number  # relative error of the head alone
    relative: Number  # with all layers since the merge layer quantized, too
    cosine: Number  # mean over rows
    same_best: Count  # rows whose best token is the same
    rounding: Number = 0.0  # relative error of the float16 graph alone, of the last row of the prompt


@dataclass(frozen=True)
class Losses:
    """All of them; without a validation those of the weights alone."""

    weights: tuple[WeightLoss, ...] = ()
    layers: tuple[LayerLoss, ...] = ()
    logits: LogitsLoss | None = None

    def beside(self, rounding: float) -> Losses:
        """Those of one part, with what its float16 graph rounds away: of its logits, or of its last layer."""
        if self.logits:
            return replace(self, logits=replace(self.logits, rounding=rounding))
        if not self.layers:
            return self
        return replace(self, layers=(*self.layers[:-1], replace(self.layers[-1], rounding=rounding)))

    def __add__(self, other: Losses) -> Losses:
        """Those of two parts."""
        logits = other.logits or self.logits
        return Losses((*self.weights, *other.weights), (*self.layers, *other.layers), logits)
