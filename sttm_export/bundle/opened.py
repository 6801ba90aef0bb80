"""The artefact: a directory that appears whole or not at all, and whose every file is known by its sha256.

What an export makes never changes afterwards: `manifest.json` and the files it lists are the same bytes whenever the
same things are exported. Times stand apart in `times.json`; engines, which differ from machine to machine, in a
directory for each target (`bundle/store.py`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.bundle.manifest import AGAIN, MANIFEST, TIMES, Manifest, read_manifest, read_times
from sttm_export.bundle.records import EngineRecord, sha256_of
from sttm_export.bundle.store import ENGINES, INDEX, engine_targets, read_records
from sttm_export.bundle.sums import SUMS, differing_files, read_sums, write_sums
from sttm_export.contracts.calibration import CALIBRATION, read_calibration
from sttm_export.contracts.graph import CLIP, JudgedGraph
from sttm_export.contracts.merge import MergeSpec
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.recipe import Recipe, Rules
from sttm_export.contracts.records import read_json
from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError
from sttm_export.files.names import check_links, check_name
from sttm_export.files.staging import is_temporary

REPORT = "report.html"
_FIXTURE = re.compile(r"fixtures/(?P<graph>\w+)(\.(?P<case>\w+))?\.npz")
# What the device kit keeps of engines that it has rejected.
_KIT_EVIDENCE = re.compile(r"rejected/[^/]+/[^/]+\.(json|md|log)")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    path: Path  # its directory
    manifest: Manifest  # the content of `manifest.json`

    @property
    def model(self) -> ModelSpec:
        """The model it was made for."""
        return self.manifest.model

    @property
    def merge(self) -> MergeSpec:
        """Sizes, budget and constants of the token merger."""
        return self.manifest.merge

    @property
    def weights(self) -> WeightSource:
        """Where the weights came from."""
        return self.manifest.weights

    @property
    def recipe(self) -> Recipe:
        """How it was exported, with the ranges of int8 products out of the bundle's calibration.

        Raises:
            UserError: the calibration is damaged, or lacks a range.
        """
        recipe, quantization = self.manifest.recipe, self.manifest.quantization
        if quantization is None:
            return recipe
        path = self.path / CALIBRATION
        known = {row.name: row for row in read_calibration(path).points}
        if lacking := [name for name in quantization.int8 if name not in known]:
            raise UserError(f"{path} has no range of {lacking[0]}, which the bundle has in int8; {AGAIN}.")
        return dataclasses.replace(recipe, ranges=tuple(known[name] for name in quantization.int8))

    def graph(self, name: str) -> JudgedGraph:
        """Declaration of one graph."""
        return self.manifest.graph(name)

    def onnx_path(self, name: str) -> Path:
        """Where a graph lies."""
        return self.path / self.graph(name).onnx_file

    def rules(self, name: str) -> Rules:
        """What outputs of one graph are judged by."""
        return self.manifest.recipe.rules(self.graph(name))

    def fixture_path(self, name: str) -> Path:
        """Where the reference inputs and outputs of a graph lie."""
        return self.path / self.graph(name).fixture_file()

    def fixture_paths(self, name: str) -> dict[str, Path]:
        """Every fixture of a graph by the name of its case; first that of the clip, named `CLIP`."""
        cases = (_FIXTURE.fullmatch(row.path) for row in self.manifest.files)
        further = sorted(match["case"] for match in cases if match and match["graph"] == name and match["case"])
        return {case: self.path / self.graph(name).fixture_file(case) for case in [CLIP, *further]}

    def engine_targets(self) -> list[str]:
        """Targets that engines were built for, or that say why not."""
        return engine_targets(self.path)

    def engine_records(self) -> list[EngineRecord]:
        """What is known of every engine, target by target."""
        return [record for target in self.engine_targets() for record in read_records(self.path, target)]

    def engine_path(self, record: EngineRecord) -> Path:
        """Where a built engine lies."""
        return self.path / ENGINES / record.file

    def rejected(self, *, engines: bool = True) -> str:
        """Why the export rejected it, as a phrase; empty for a bundle in which nothing missed.

        Args:
            engines: look into their indices too; one that is damaged is a `UserError`.
        """
        if self.manifest.missed:
            return "a check of its validation missed"
        records = self.engine_records() if engines else []
        failed = next((record for record in records if record.status == "failed"), None)
        return f"the {failed.target} engine of {failed.graph} could not be built" if failed else ""

    def times(self) -> dict[str, Any]:
        """When it was exported and how long each step took; empty if the file is gone."""
        return read_times(self.path)


def bisect_command(
    bundle: Path,
    graph: JudgedGraph,
    *,
    weights: str | None = None,
    tower_weights: str | None = None,
    engine: bool = False,
) -> str:
    """Return the command that finds the first tensor of a graph to leave its band.

    Args:
        bundle: its directory.
        graph: of the bundle.
        weights: the checkpoint it was made of.
        tower_weights: the tower's own checkpoint.
        engine: whether an engine departs, not the graph.
    """
    command = ["sttm-export", "validate", str(bundle), "--bisect", graph.name]
    if graph.weights_sha256:
        command += ["--weights", weights] if weights else []
        command += ["--tower-weights", tower_weights] if tower_weights else []
    return shlex.join([*command, *(["--engine"] if engine else [])])


def open_bundle(path: str | Path, *, verify: bool = True, engines: bool = True) -> Bundle:
    """Open a bundle and check that it is whole.

    Args:
        path: its directory.
        verify: hash every file; without, only names are checked.
        engines: with `verify`, the files of the engines too.

    Raises:
        UserError: no bundle, another format, a name that leads out of it, or a file that is missing, changed, or not
            of it.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    _check_names(directory, manifest)
    if verify:
        verify_files(directory, manifest, engines=engines)
    return Bundle(directory, manifest)


def open_to_run(path: str | Path, beside: Sequence[str] = ()) -> Bundle:
    """Open a bundle of which a part is read, and check the manifest and that part.

    Graphs and engines are held to their sums where they are loaded: to hash what is not read would take gigabytes at
    each start.

    Args:
        path: its directory.
        beside: names of files that are read beside graphs and engines.

    Raises:
        UserError: no bundle, another format, a name that leads out of it, or one of these files was changed.
    """
    bundle = open_bundle(path, verify=False)
    verify_manifest(bundle.path)
    verify_files_of(bundle, beside)
    return bundle


def _check_names(directory: Path, manifest: Manifest) -> None:
    """Refuse names that lead out of the bundle before anything is opened by them."""
    for graph in manifest.graphs:
        for file in (graph.onnx_file, f"{graph.onnx_file}.data", graph.fixture_file()):
            check_links(directory, file, MANIFEST)
    for row in manifest.files:
        check_links(directory, check_name(row.path, MANIFEST), MANIFEST)


def verify_manifest(directory: Path) -> None:
    """Refuse a manifest that is not the exported one, before anything is read from it.

    Raises:
        UserError: changed, or without its sum.
    """
    path = directory / MANIFEST
    if path.is_file() and read_sums(directory).get(MANIFEST) != sha256_of(path):
        raise UserError(f"{path} was changed after the export; copy the bundle anew, or {AGAIN}.")


def verify_files_of(bundle: Bundle, names: Sequence[str]) -> None:
    """Compare some files of a bundle with the sums in its manifest, where not all of them are read.

    Raises:
        UserError: one of them differs, or is missing.
    """
    for row in bundle.manifest.files:
        path = bundle.path / row.path
        if row.path in names and (not path.is_file() or sha256_of(path) != row.sha256):
            raise UserError(f"{path} was changed after the export; copy the bundle anew, or {AGAIN}.")


def verify_files(directory: Path, manifest: Manifest, *, engines: bool = True) -> None:
    """Compare every file with its recorded sha256, the manifest and every target's engines included.

    Raises:
        UserError: names the first file that differs or is of no sum, and how many do.
    """
    recorded = read_sums(directory)
    unknown = [row.path for row in manifest.files if recorded.get(row.path) != row.sha256]
    faults = [f"{name} has another sha256 in {MANIFEST} than in {SUMS}" for name in unknown]
    faults += [] if MANIFEST in recorded else [f"{MANIFEST} is not in {SUMS}"]
    faults += differing_files(directory)
    for target in engine_targets(directory) if engines else []:
        faults += [f"{ENGINES}/{target}/{fault}" for fault in differing_files(directory / ENGINES / target)]
    if faults:
        more = f", and {len(faults) - 1} more file(s) differ" if len(faults) > 1 else ""
        # Engines are looked at last: where one is named, the rest of the bundle is as it was exported.
        again = "build the engines again with --force" if faults[0].startswith(f"{ENGINES}/") else AGAIN
        raise UserError(f"{directory} is damaged or was tampered with: {faults[0]}{more}; {again} or copy it anew.")
    extra = [name for name in uncovered_files(directory) if engines or not name.startswith(f"{ENGINES}/")]
    if extra:
        more = f", nor are {len(extra) - 1} more" if len(extra) > 1 else ""
        raise UserError(
            f"{directory} holds {extra[0]!r}, which is in no {SUMS} and not of the bundle{more}; move it elsewhere."
        )


def list_files(directory: Path) -> list[dict[str, Any]]:
    """Path, size and sha256 of every file that a manifest lists, sorted: engines, times and report stand apart."""
    apart = {MANIFEST, SUMS, TIMES, REPORT}
    names = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return [
        {"path": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in sorted(names.items())
        if name not in apart and not name.startswith(f"{ENGINES}/")
    ]


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json`, and `SHA256SUMS` of it, the files it lists, and times and report if there."""
    _write_json(directory / MANIFEST, manifest)
    apart = [name for name in (MANIFEST, TIMES, REPORT) if (directory / name).is_file()]
    write_sums(directory, [row["path"] for row in manifest["files"]] + apart)


def write_times(directory: Path, created: str, seconds: dict[str, float]) -> None:
    """Write the one file that differs between two exports of the same thing."""
    _write_json(directory / TIMES, {"created": created, "seconds": seconds})


def is_bundle(directory: Path) -> bool:
    """Whether a directory is recognisably a bundle of this program, whatever its format; damaged ones count."""
    try:
        manifest = read_json(directory / MANIFEST)
        program, form = manifest["program"], manifest["format"]
        return isinstance(form, int) and str(program).startswith("sttm-export ") and MANIFEST in read_sums(directory)
    except (ValueError, KeyError, TypeError, UserError):
        return False


def bundle_around(path: Path) -> Path | None:
    """Return the bundle that a file or directory would lie in; None if in none."""
    return next((folder for folder in path.resolve().parents if is_bundle(folder)), None)


def check_outside_bundles(output: str) -> None:
    """Refuse a directory or file of windows that would lie in a bundle; `-` is none.

    Raises:
        UserError: names the bundle.
    """
    if output != "-" and (around := bundle_around(Path(output) / "window")) is not None:
        raise UserError(
            f"--output {output} would lie in the bundle {around}, which holds nothing else; give another place."
        )


def uncovered_files(directory: Path) -> list[str]:
    """Names of what lies in a bundle and is not of it: in no sum, and none of the names that are known to stand apart.

    Directories that are empty end with a slash. Engines that are being built at the moment are not counted.
    """
    covered = {SUMS, MANIFEST, TIMES, REPORT, *_summed(directory)}
    for target in engine_targets(directory):
        below = {INDEX, SUMS, *_summed(directory / ENGINES / target)}
        covered |= {f"{ENGINES}/{target}/{name}" for name in below}
    return sorted(name for name in _contents(directory) if name not in covered and not _KIT_EVIDENCE.fullmatch(name))


def _summed(directory: Path) -> set[str]:
    try:
        return set(read_sums(directory))
    except UserError:
        return set()


def _contents(directory: Path) -> Iterator[str]:
    for folder, inner, files in os.walk(directory):
        place = Path(folder)
        below = place.relative_to(directory)
        if below == Path(ENGINES):
            inner[:] = [name for name in inner if not is_temporary(name)]
        links = [name for name in inner if (place / name).is_symlink()]
        yield from ((below / name).as_posix() for name in [*files, *links])
        if not inner and not files and below.as_posix() not in {".", ENGINES}:
            yield f"{below.as_posix()}/"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
