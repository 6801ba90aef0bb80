"""`manifest.json` and `times.json` as records: read once, with every fault in one message."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.contracts.calibration import CalibrationFile
from sttm_export.contracts.decoding import Decoding
from sttm_export.contracts.graph import Accumulate, GraphSpec, JudgedGraph, Precision
from sttm_export.contracts.losses import Losses
from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.model import ModelSpec, inconsistencies
from sttm_export.contracts.quantization import Quantization
from sttm_export.contracts.recipe import Recipe
from sttm_export.contracts.records import Cosine, Count, Dimension, Number, Share, read_json, read_record
from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError

FORMAT = 6
MANIFEST, TIMES = "manifest.json", "times.json"
AGAIN = "export it again"
_FAULTS_SHOWN = 5


@dataclass(frozen=True)
class FileRow:
    """A file of the bundle."""

    path: str
    bytes: Count
    sha256: str


@dataclass(frozen=True)
class RuleFinding:
    """What the rules of a target say of a graph."""

    graph: str
    severity: str
    finding: str


@dataclass(frozen=True)
class ClipFidelity:
    """Tokens of the validation clip against the features they stand for (`runtime/fidelity.py`)."""

    relative_error: Number
    cosine: Number
    error_of_frame: tuple[Number, ...]
    cosine_of_frame: tuple[Number, ...]


@dataclass(frozen=True)
class ClipSimilarities:
    """A histogram of the similarities that were compared with a threshold (`validation/histograms.py`)."""

    low: Cosine
    step: Share
    counts: tuple[Count, ...]
    held: tuple[Count, ...]
    undefined: Count


@dataclass(frozen=True)
class Example:
    """What became of the validation clip."""

    clip: str
    num_tokens: Count
    max_tokens: Count
    thresholds: tuple[Number, Number]
    tokens_per_frame: tuple[Count, ...] = ()
    converged: bool = True
    fidelity: ClipFidelity | None = None
    similarities: dict[str, ClipSimilarities] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Figures:
    """The figures of a comparison that are shown; `ValidationReport` has all of them."""

    cosine_min: Number
    norm_ratio_min: Number
    norm_ratio_max: Number
    sqnr_db: Number


@dataclass(frozen=True)
class _Decisions:
    """The figures of a comparison of decisions that are shown."""

    cells: Count
    cells_differing: Count
    ties: tuple[Any, ...]


@dataclass(frozen=True)
class _Stage:
    """One verdict, as far as it is shown."""

    stage: str
    against: str
    graph: str
    tensor: str
    passed: bool
    reason: str
    comparison: _Figures | None
    decisions: _Decisions | None
    skipped: bool = False
    clip: str = ""


@dataclass(frozen=True)
class _Validation:
    """What validation found, as far as it is shown."""

    results: tuple[_Stage, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What was exported, of what, and how it was checked."""

    program: str  # name and version of the program that wrote it
    model: ModelSpec
    precision: Precision
    accumulate: Accumulate  # what float16 products are summed in
    batch: Dimension  # B, frames a call of the vision encoder
    merge: MergeSpec
    thresholds: Thresholds  # defaults of the bundle
    decoding: Decoding | None  # how the language model was exported; none where it was not
    calibration: CalibrationFile | None  # that the export was given; its copy lies in the bundle
    quantization: Quantization | None  # of an int8 vision encoder
    weights: WeightSource
    graphs: tuple[JudgedGraph, ...]  # in the order of the data
    targets: tuple[str, ...]  # those that were asked for
    rule_findings: dict[str, tuple[RuleFinding, ...]]  # by target
    files: tuple[FileRow, ...]  # every file that the export wrote and that never changes
    versions: dict[str, str]  # of Python and packages, by name
    validation: _Validation | None  # none where nothing was validated
    example: Example | None
    int4_losses: Losses | None = None  # of a decoder's weights, where they have four bits
    # All of it as it stands in the file, for those who print it.
    data: dict[str, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def recipe(self) -> Recipe:
        """How it was exported, but for the ranges of int8 products, which `Bundle.recipe` has."""
        return Recipe(
            self.model, self.merge, self.thresholds, self.precision, self.accumulate, self.batch, self.decoding
        )

    @property
    def missed(self) -> bool:
        """Whether it was validated and a check missed."""
        return self.validation is not None and not all(stage.passed for stage in self.validation.results)

    def graph(self, name: str) -> JudgedGraph:
        """Declaration of one graph."""
        return next(graph for graph in self.graphs if graph.name == name)


@dataclass(frozen=True)
class Times:
    """When a bundle was exported, and seconds of each step."""

    created: str = ""
    seconds: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        UserError: no bundle, another format, or values that no export writes; all of them in one message.
    """
    try:
        data = read_json(directory / MANIFEST)
        known = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, ValueError) else "it states no format"
        raise UserError(
            f"{directory} is not a bundle: it has no readable {MANIFEST} ({why}); give the directory that sttm-export "
            "wrote."
        ) from error
    if known != FORMAT:
        raise UserError(f"{directory} has bundle format {known!r:.40}, this program reads format {FORMAT}; {AGAIN}.")
    faults: list[str] = []
    manifest: Manifest | None = read_record(Manifest, data, faults)
    faults += _inconsistencies(manifest) if manifest else []
    if manifest is None or faults:
        raise UserError(f"{directory / MANIFEST} is not as sttm-export writes it: {_joined(faults)}; {AGAIN}.")
    manifest.data.update(data)
    return manifest


def read_times(directory: Path) -> dict[str, Any]:
    """When a bundle was exported and how long each step took; empty if the file is gone.

    Raises:
        UserError: the file is there and is not as an export writes it.
    """
    path, faults = directory / TIMES, list[str]()
    if not path.exists():
        return {}
    try:
        times: dict[str, Any] = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}; {AGAIN}, or remove that file.") from error
    read_record(Times, times, faults)
    if faults:
        raise UserError(f"{path} is not as sttm-export writes it: {_joined(faults)}; {AGAIN}, or remove that file.")
    return times


def _inconsistencies(manifest: Manifest) -> list[str]:
    """Values that are possible one by one and contradict each other."""
    faults = inconsistencies(manifest.model)
    model, merge, names = manifest.model, manifest.merge, [graph.name for graph in manifest.graphs]
    if (merge.height, merge.width, merge.channels) != (model.grid.height, model.grid.width, model.channels):
        return [*faults, "'merge' has another grid or other channels than 'model'"]
    if (manifest.precision == "int8") != (manifest.quantization is not None):
        return [*faults, "'quantization' belongs to precision int8, and to no other"]
    if manifest.quantization and not manifest.calibration:
        return [*faults, "'quantization' has no 'calibration' that its ranges are from"]
    if manifest.decoding and not (model.decoder and manifest.decoding.merge_layer < model.decoder.layers):
        return [*faults, "'decoding' is of a language model that 'model' does not have"]
    expected = {graph.name: graph for graph in manifest.recipe.graphs}
    if names != list(expected):
        return [*faults, f"'graphs' must have {', '.join(expected)}, each once, got {', '.join(names) or 'none'}"]
    faults += [
        f"'graphs' has other inputs or outputs for {graph.name} than model, sizes and precision give"
        for graph in manifest.graphs
        if _tensors(graph) != _tensors(expected[graph.name])
    ]
    example = manifest.example
    if example and not 0 <= example.num_tokens <= example.max_tokens:
        faults.append(f"'example' has {example.num_tokens} tokens of {example.max_tokens}")
    return faults


def _tensors(graph: GraphSpec) -> tuple[object, ...]:
    """Without their meanings, which are words for people."""
    sides = [[(row.name, row.shape, row.dtype) for row in side] for side in (graph.inputs, graph.outputs)]
    return (sides, graph.row_counts, graph.state)


def _joined(faults: list[str]) -> str:
    more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
    return "; ".join(faults[:_FAULTS_SHOWN]) + more
