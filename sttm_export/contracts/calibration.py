"""What `sttm-export calibrate` has measured and chosen, as it stands in its file and travels in a bundle.

A calibration belongs to one model with one set of encoder weights. It is one JSON file, the same for the same clips in
any order.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from sttm_export.contracts.merge import SpatialThreshold
from sttm_export.contracts.records import (
    Cosine,
    Count,
    Number,
    Range,
    Share,
    Size,
    parse_json,
    read_record,
    read_regular,
)
from sttm_export.errors import UserError

FORMAT = 1
CALIBRATION = "calibration.json"
"""Its name inside of a bundle."""
_AGAIN = "give a file that `sttm-export calibrate` wrote"

Method = Literal["max", "percentile", "entropy", "squared_error"]
METHODS: tuple[Method, ...] = ("max", "percentile", "entropy", "squared_error")


@dataclass(frozen=True)
class CalibratedClip:
    """A clip that was read."""

    name: str  # of the file, without its directory
    sha256: str
    frames: Size  # that were sampled of it


@dataclass(frozen=True)
class PointRange:
    """A tensor that products read: how it is quantized, and why so."""

    name: str  # of the point, as the family declares it
    # Largest magnitude that int8 keeps, after channels were divided; the step is this over 127.
    largest: Annotated[float, Range(0.0, 1e30, above=True)]
    method: Method  # that gave it
    # Channel j is divided by 2 to this power, and what reads it multiplied; empty where nothing is.
    exponents: tuple[Annotated[int, Range(-64, 64)], ...]
    # Relative error of the products with int8 factors on kept rows, for the range of each method: the evidence.
    errors: dict[str, Number]
    error_unscaled: Number  # least of these without exponents


@dataclass(frozen=True)
class LinePoint:
    """A pair of thresholds that fills a budget, over all clips."""

    spatial: SpatialThreshold
    temporal: Cosine
    distortion: Number


@dataclass(frozen=True)
class ThresholdChoice:
    """Thresholds for a budget, merge layer and number of frames: the least distortion of all pairs that fill it."""

    budget: Share
    frames: Size  # T, the steps that a merger takes
    merge_layer: Count
    spatial: SpatialThreshold  # given to the merger
    temporal: Cosine  # what policy `budget` solves beside it, the median over clips
    distortion: Number  # mean over clips of the relative error of `tokens[assignment]`
    published_spatial: Cosine
    published_distortion: Number  # the same with the published spatial threshold
    line: tuple[LinePoint, ...]  # all pairs that were tried, by spatial threshold: the evidence


@dataclass(frozen=True)
class Calibration:
    """One file."""

    program: str
    model: str
    weights_sha256: str  # of the vision encoder's tensors, in canonical order
    clips: tuple[CalibratedClip, ...]  # by sha256
    points: tuple[PointRange, ...]  # in the order of the data
    thresholds: tuple[ThresholdChoice, ...]

    def choice(self, budget: float, frames: int, merge_layer: int) -> ThresholdChoice | None:
        """The thresholds for a budget, T and merge layer; None where they were not calibrated."""
        asked = frames, merge_layer
        rows = [row for row in self.thresholds if (row.frames, row.merge_layer) == asked]
        return next((row for row in rows if math.isclose(row.budget, budget, rel_tol=1e-9)), None)

    def to_text(self) -> str:
        """The file: JSON, one line for each row of its tables."""
        data = {"format": FORMAT} | dataclasses.asdict(self)
        lines = []
        for key, value in data.items():
            if isinstance(value, tuple):
                rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
                lines.append(f'  "{key}": [\n{rows}\n  ]' if rows else f'  "{key}": []')
            else:
                lines.append(f'  "{key}": {json.dumps(value)}')
        return "{\n" + ",\n".join(lines) + "\n}\n"


@dataclass(frozen=True)
class CalibrationFile:
    """A calibration as a manifest names it."""

    name: str  # of the file that was given
    sha256: str
    clips: Count
    frames: Count  # of all clips


@dataclass(frozen=True)
class GivenCalibration:
    """A file that was read once: what it holds, and its bytes for the bundle."""

    file: CalibrationFile
    content: bytes
    calibration: Calibration


def given_calibration(path: Path) -> GivenCalibration:
    """Read a calibration file for an export; raises as `read_calibration`."""
    content = _content(path)
    calibration = _calibration(path, content)
    frames = sum(clip.frames for clip in calibration.clips)
    file = CalibrationFile(path.name, sha256(content).hexdigest(), len(calibration.clips), frames)
    return GivenCalibration(file, content, calibration)


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Raises:
        UserError: no such file, another format, or values that `calibrate` does not write; all of them in one message.
    """
    return _calibration(path, _content(path))


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except ValueError as error:
        raise UserError(f"{path} is no calibration: {error}; {_AGAIN}.") from error


def _calibration(path: Path, content: bytes) -> Calibration:
    try:
        data: Any = parse_json(content)
        known = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, ValueError) else "it states no format"
        raise UserError(f"{path} is no calibration: {why}; {_AGAIN}.") from error
    if known != FORMAT:
        raise UserError(f"{path} has calibration format {known!r:.40}, this program reads format {FORMAT}; {_AGAIN}.")
    faults: list[str] = []
    read: Calibration | None = read_record(Calibration, data, faults)
    if read is None:
        raise UserError(f"{path} is no calibration: {'; '.join(faults[:5])}; {_AGAIN}.")
    return read
