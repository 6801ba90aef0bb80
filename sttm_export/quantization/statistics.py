"""What is seen at each point while frames run through the float encoder: counts, largest magnitudes and kept rows.

Magnitudes are counted in eight bins an octave: a float32 without its sign, and of its mantissa the first three bits, is
the number of its bin. No logarithm is taken, bins are the same on every machine, counts add up in any order, and
dividing a channel by a power of two moves its counts by eight bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sttm_export.errors import UserError
from sttm_export.quantization.points import Point

Counts = NDArray[np.integer]
Floats = NDArray[np.float32]

PER_OCTAVE, OCTAVES, LOWEST_OCTAVE = 8, 24, -10
BINS = PER_OCTAVE * OCTAVES
"""Bins from 2^-10 to 2^14; what lies outside is in the first and the last."""
_LOWEST = (127 + LOWEST_OCTAVE) * PER_OCTAVE
# Rows kept as evidence: of one run of the encoder, of a clip, and of all clips together.
ROWS_A_CALL, ROWS, MOST_ROWS = 32, 128, 256
CALLS = 8
"""Runs of the encoder of which rows are held at a time, spread evenly over the clip."""
_MANTISSA = 23 - 3


@dataclass(frozen=True)
class PointStatistics:
    """One point. Channels are counted apart where powers of two can be folded in, otherwise together."""

    counts: Counts  # [absorber's channels, or 1; BINS]
    largest: Floats  # [width] largest magnitude of each channel
    rows: NDArray[np.float16]  # [n, width] rows, each divided by 2 to its shift
    shifts: NDArray[np.int16]  # [n]

    def thinned(self, most: int) -> PointStatistics:
        """So many of the kept rows, evenly; counts become such that those of any number of clips add up."""
        places = _evenly(len(self.rows), most)
        return PointStatistics(self.counts.astype(np.int64), self.largest, self.rows[places], self.shifts[places])

    def joined(self, other: PointStatistics) -> PointStatistics:
        """Both together."""
        return PointStatistics(
            self.counts + other.counts,
            np.maximum(self.largest, other.largest),
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.shifts, other.shifts]),
        )

    def floats(self) -> Tensor:
        """The kept rows, [n, width] float32."""
        return torch.from_numpy(np.ldexp(self.rows.astype(np.float32), self.shifts[:, None].astype(np.int32)))


@dataclass(frozen=True)
class ActivationStatistics:
    """All points of an encoder, over one clip or several.

    Args:
        keys: sha256 of the clips, sorted: what decides the order of rows.
        points: by name.
    """

    keys: tuple[str, ...]
    points: Mapping[str, PointStatistics] = field(repr=False)

    def save(self, file: Path | BinaryIO) -> None:
        """Write an npz file, or into one that is open; no pickle."""
        arrays: dict[str, Any] = {"keys": np.array(self.keys)}
        for name, row in self.points.items():
            arrays |= {f"{name}/{key}": value for key, value in vars(row).items()}
        with file.open("wb") if isinstance(file, Path) else nullcontext(file) as opened:
            np.savez_compressed(opened, **arrays)

    def thinned(self, most: int) -> ActivationStatistics:
        """The same with so many rows a point."""
        return ActivationStatistics(self.keys, {name: row.thinned(most) for name, row in self.points.items()})

    @classmethod
    def load(cls, path: Path) -> ActivationStatistics:
        """Read back what `save` wrote.

        Raises:
            UserError: it is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                names = dict.fromkeys(key.rpartition("/")[0] for key in file.files if "/" in key)
                parts = ("counts", "largest", "rows", "shifts")
                points = {name: PointStatistics(*(file[f"{name}/{part}"] for part in parts)) for name in names}
                return cls(tuple(map(str, file["keys"])), points)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            why = f"{path} holds no statistics of a calibration ({error}); remove it and run again."
            raise UserError(why) from error


def _joined(left: ActivationStatistics, right: ActivationStatistics) -> ActivationStatistics:
    points = {name: row.joined(right.points[name]) for name, row in left.points.items()}
    return ActivationStatistics(tuple(sorted({*left.keys, *right.keys})), points)


def combine(several: Sequence[ActivationStatistics]) -> ActivationStatistics:
    """Join the statistics of clips, in whatever order they come."""
    return combine_ordered(sorted(several, key=lambda row: row.keys), len(several))


def combine_ordered(ordered: Iterable[ActivationStatistics], count: int) -> ActivationStatistics:
    """Join the statistics of so many clips, which come by key: two are in memory at a time, however many there are."""
    share = max(1, MOST_ROWS // count)
    return reduce(_joined, (row.thinned(share) for row in ordered))


class Collector:
    """Takes in what hooks see."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = {point.name: point for point in points}
        self._counts = {name: _no_counts(_groups(point)) for name, point in self._points.items()}
        self._largest = {name: torch.zeros(point.width) for name, point in self._points.items()}
        self._calls = dict.fromkeys(self._points, 0)
        # Rows of every call whose number is a multiple of the stride, so that those of a long clip take no more memory.
        self._stride = dict.fromkeys(self._points, 1)
        self._rows: dict[str, list[Tensor]] = {name: [] for name in self._points}

    def take(self, name: str, tensor: Tensor) -> None:
        """Count one tensor [..., width]."""
        point = self._points[name]
        values = tensor.detach().reshape(-1, point.width).float().abs()
        self._largest[name] = torch.maximum(self._largest[name], values.amax(0))
        self._counts[name] += _counted(values, _groups(point))
        call, kept = self._calls[name], self._rows[name]
        self._calls[name] += 1
        if call % self._stride[name]:
            return
        # The first row moves from call to call, so that not always the same patches are kept.
        count = min(len(values), ROWS_A_CALL)
        places = (torch.arange(count) * len(values) // count + call * 7) % len(values)
        kept.append(tensor.detach().reshape(-1, point.width)[places].float())
        if len(kept) > CALLS:
            kept[:] = kept[::2]
            self._stride[name] *= 2

    def finish(self, key: str) -> ActivationStatistics:
        """What was seen, as the statistics of the clip with this sha256."""
        return ActivationStatistics((key,), {name: self._finished(name) for name in self._points})

    def _finished(self, name: str) -> PointStatistics:
        rows = torch.cat(self._rows[name])
        rows = rows[_evenly(len(rows), ROWS)]
        # Each row with a largest magnitude in [0.5, 1), so that float16 holds it with 11 bits.
        _, exponents = torch.frexp(rows.abs().amax(1))
        scaled = torch.ldexp(rows, -exponents[:, None]).numpy().astype(np.float16)
        return PointStatistics(
            self._counts[name], self._largest[name].numpy(), scaled, exponents.numpy().astype(np.int16)
        )


@contextmanager
def collecting(module: nn.Module, points: Sequence[Point]) -> Iterator[Collector]:
    """Watch the points of a float module while it runs; the hooks go with the block.

    Args:
        module: the encoder, as the family builds it.
        points: of that encoder.
    """
    collector, handles = Collector(points), []
    for point in points:
        seen = partial(_watch, collector, point.name)
        handles.append(module.get_submodule(point.readers[0]).register_forward_pre_hook(seen))
    try:
        yield collector
    finally:
        for handle in handles:
            handle.remove()


def _watch(collector: Collector, name: str, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    collector.take(name, arguments[0])


def _groups(point: Point) -> int:
    return point.absorber.channels if point.absorber else 1


def _no_counts(groups: int) -> Counts:
    """A thousand frames overflow int32 where all channels are counted together; where each is alone, none do."""
    return np.zeros((groups, BINS), np.int64 if groups == 1 else np.int32)


def _counted(magnitudes: Tensor, groups: int) -> Counts:
    """[groups, BINS] of magnitudes [rows, width], whose channel j belongs to group j mod groups."""
    bins = (magnitudes.contiguous().view(torch.int32) >> _MANTISSA).sub_(_LOWEST).clamp_(0, BINS - 1)
    if groups > 1:
        bins = bins.reshape(-1, groups).add_(torch.arange(groups, dtype=torch.int32) * BINS)
    counted = torch.bincount(bins.reshape(-1), minlength=groups * BINS)
    return counted.numpy().reshape(groups, BINS).astype(np.int32)


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    return np.arange(min(count, most)) * count // min(count, most)


def upper_edges() -> NDArray[np.float64]:
    """[BINS] the magnitude at which each bin ends."""
    octave, eighth = np.divmod(np.arange(1, BINS + 1), PER_OCTAVE)
    edges: NDArray[np.float64] = np.ldexp(1.0 + eighth / PER_OCTAVE, octave + LOWEST_OCTAVE)
    return edges
