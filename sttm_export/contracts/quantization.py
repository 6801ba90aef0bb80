"""What an export made int8, and what that cost: a section of the manifest. No torch here: a device reads it too."""

from __future__ import annotations

from dataclasses import dataclass

from sttm_export.contracts.calibration import Method
from sttm_export.contracts.records import Count, Number


@dataclass(frozen=True)
class QuantizedPoint:
    """One tensor that products read, as the export took it; its range is in the calibration."""

    name: str
    int8: bool  # or kept in float16
    method: Method  # that gave its range
    moved: Count  # channels that a power of two moved
    sqnr_db: Number  # of its products on the calibration's rows, with int8 factors
    sqnr_unscaled_db: Number  # the same without powers of two
    cost: Number  # relative error of the features that this point brings, to first order


@dataclass(frozen=True)
class DecisionChange:
    """Merging the validation clip by int8 features, beside merging it by float ones."""

    frames: Count  # grids of tokens
    cells: Count
    cells_differing: Count  # in another box, or in a token of another size
    tokens_float: Count
    tokens_int8: Count
    features_relative: Number  # norm of the difference of all features over their norm
    features_sqnr_db: Number
    moved_relative: Number  # the same of `tokens[assignment]`
    moved_cosine: Number  # mean over cells of the cosine of `tokens[assignment]`


@dataclass(frozen=True)
class Quantization:
    """The int8 part of an export."""

    layers: str  # as --int8-layers asked
    points: tuple[QuantizedPoint, ...]  # in the order of the data
    weight_bytes: Count  # of the exported encoder
    weight_bytes_float16: Count  # of the same encoder in float16
    trials: Count  # encoders that were run until the features met the gate; 0 where the layers were named
    decisions: DecisionChange | None = None

    @property
    def kept(self) -> tuple[QuantizedPoint, ...]:
        """Points that stay float16, the most costly first."""
        return tuple(sorted((row for row in self.points if not row.int8), key=lambda row: -float(row.cost)))

    @property
    def int8(self) -> tuple[str, ...]:
        """Names of the points whose products are int8."""
        return tuple(row.name for row in self.points if row.int8)
