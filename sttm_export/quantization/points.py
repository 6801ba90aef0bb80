"""Where a vision encoder is quantized: the tensors that its matrix products read.

A family declares its points (`families/*/points.py`). What takes up a power of two for each channel does so exactly:
norms and products are linear in their parameters, and a power of two changes no digit of a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sttm_export.contracts.calibration import PointRange
from sttm_export.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Absorber:
    """What makes a point's tensor, and can divide each channel of it.

    Channel j of the tensor is row `first + j % channels` of every parameter. A tensor of several tokens side by side
    has the same channels several times.
    """

    parameters: tuple[str, ...]  # weight and bias of a norm, or of the Linear before
    channels: int
    first: int = 0

    @classmethod
    def of(cls, path: str, channels: int) -> Absorber:
        """Weight and bias of one module, all of its rows."""
        return cls((f"{path}.weight", f"{path}.bias"), channels)


@dataclass(frozen=True)
class Point:
    """A tensor that one or several Linears read; either all of them are int8 or none."""

    name: str  # `tower.layers.3.fc1`
    readers: tuple[str, ...]  # paths of the Linears within the exported module
    width: int  # channels of the tensor
    absorber: Absorber | None = None  # None where nothing before it is linear

    @property
    def weights(self) -> tuple[str, ...]:
        """Canonical names of the readers' weights."""
        return tuple(f"{reader}.weight" for reader in self.readers)

    def spread(self, exponents: Sequence[int]) -> list[int]:
        """The exponent of each channel of the tensor; zeros where there are none."""
        given = list(exponents) or [0]
        return given * (self.width // len(given))


def check_ranges(points: Sequence[Point], ranges: Sequence[PointRange]) -> list[str]:
    """What of a calibration does not fit an encoder, as phrases."""
    known, given = {point.name: point for point in points}, [row.name for row in ranges]
    if sorted(given) != sorted(known):
        lacking = sorted(set(known) - set(given)) or sorted(set(given) - set(known)) or given
        return [f"its points are not those of the encoder ({lacking[0]})"]
    return [
        f"{row.name} has {len(row.exponents)} exponents"
        for row in ranges
        if row.exponents and len(row.exponents) != getattr(known[row.name].absorber, "channels", 0)
    ]


def pick_points(asked: str, points: Sequence[Point]) -> tuple[str, ...]:
    """Names of the points that a comma-separated list of names and patterns means, in the order of the data.

    Raises:
        UserError: a name or pattern that no point has.
    """
    names = [point.name for point in points]
    picked: set[str] = set()
    for pattern in filter(None, (part.strip() for part in asked.split(","))):
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(f"--int8-layers has no layer '{pattern}'.{did_you_mean(pattern, _kinds(names))}")
        picked.update(found)
    if not picked:
        raise UserError("--int8-layers is empty; give auto, all, or names and patterns such as '*.fc1'.")
    return tuple(name for name in names if name in picked)


def _kinds(names: Iterable[str]) -> list[str]:
    """Names with their numbers as `*`: a tower has a hundred of them, and few kinds."""
    kinds = (".".join("*" if part.isdecimal() else part for part in name.split(".")) for name in names)
    return list(dict.fromkeys(kinds))


def reader_weights(point: Point, state: Mapping[str, Tensor]) -> Tensor:
    """[outputs of all readers, width] float32."""
    import torch

    return torch.cat([state[name].float().reshape(-1, point.width) for name in point.weights])
