"""The artefact: a directory that appears whole or not at all, and whose every file is known by its sha256.

What an export makes never changes afterwards: `manifest.json` and the files it lists are the same bytes whenever the
same things are exported. Times stand apart in `times.json`; engines, which differ from machine to machine, in a
directory for each target (`engines/store.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.engines.records import EngineRecord, sha256_of
from sttm_export.engines.selection import Selection, select_engines
from sttm_export.engines.store import ENGINES, engine_targets, read_records
from sttm_export.engines.sums import SUMS, differing_files, read_sums, write_sums
from sttm_export.errors import UserError
from sttm_export.networks.weight_source import WeightSource
from sttm_export.spec.graph import GraphSpec
from sttm_export.spec.merge import MergeSpec
from sttm_export.spec.model import ModelSpec, model_from_json

FORMAT = 2
MANIFEST, TIMES, REPORT = "manifest.json", "times.json", "report.html"
_AGAIN = "export it again"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: its directory.
        manifest: the content of `manifest.json`.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def model(self) -> ModelSpec:
        """The model it was made for."""
        return model_from_json(self.manifest["model"])

    @property
    def merge(self) -> MergeSpec:
        """Sizes, budget and constants of the token merger."""
        fields = MergeSpec.__dataclass_fields__
        return MergeSpec(**{key: value for key, value in self.manifest["merge"].items() if key in fields})

    @property
    def weights(self) -> WeightSource:
        """Where the weights came from."""
        return WeightSource(**self.manifest["weights"])

    def graph(self, name: str) -> GraphSpec:
        """Declaration of one graph."""
        return next(GraphSpec.from_json(row) for row in self.manifest["graphs"] if row["name"] == name)

    def onnx_path(self, name: str) -> Path:
        """Where a graph lies."""
        return self.path / self.graph(name).onnx_file

    def fixture_path(self, name: str) -> Path:
        """Where the reference inputs and outputs of a graph lie."""
        return self.path / "fixtures" / f"{name}.npz"

    def engine_targets(self) -> list[str]:
        """Targets that engines were built for, or that say why not."""
        return engine_targets(self.path)

    def engine_records(self) -> list[EngineRecord]:
        """What is known of every engine, target by target."""
        return [record for target in self.engine_targets() for record in read_records(self.path, target)]

    def engine_path(self, record: EngineRecord) -> Path:
        """Where a built engine lies."""
        return self.path / ENGINES / record.file

    def engines_here(self, target: str | None = None) -> Selection:
        """Return an engine of every graph that runs on this machine; see `select_engines`."""
        names = [row["name"] for row in self.manifest["graphs"]]
        return select_engines(self.path / ENGINES, self.engine_records(), names, target)

    def times(self) -> dict[str, Any]:
        """When it was exported and how long each step took; empty if the file is gone."""
        path = self.path / TIMES
        times: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return times


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Open a bundle and check that it is whole.

    Raises:
        UserError: no bundle, another format, or a file that is missing, added to or changed.
    """
    directory = Path(path)
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        known = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory} is not a bundle: it has no readable {MANIFEST}; give the directory that sttm-export wrote."
        ) from error
    if known != FORMAT:
        raise UserError(f"{directory} has bundle format {known}, this program reads format {FORMAT}; {_AGAIN}.")
    if verify:
        verify_files(directory, manifest)
    return Bundle(directory, manifest)


def verify_files(directory: Path, manifest: dict[str, Any]) -> None:
    """Compare every file with its recorded sha256, the manifest and every target's engines included.

    Raises:
        UserError: names the first file that differs, and how many do.
    """
    recorded = read_sums(directory)
    unknown = [row["path"] for row in manifest["files"] if recorded.get(row["path"]) != row["sha256"]]
    faults = [f"{name} has another sha256 in {MANIFEST} than in {SUMS}" for name in unknown]
    faults += [] if MANIFEST in recorded else [f"{MANIFEST} is not in {SUMS}"]
    faults += differing_files(directory)
    for target in engine_targets(directory):
        faults += [f"{ENGINES}/{target}/{fault}" for fault in differing_files(directory / ENGINES / target)]
    if faults:
        more = f", and {len(faults) - 1} more file(s) differ" if len(faults) > 1 else ""
        raise UserError(f"{directory} is damaged or was tampered with: {faults[0]}{more}; {_AGAIN} or copy it anew.")


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


def check_output(output: Path, force: bool) -> None:
    """Refuse, before any work, an output directory that is in the way or cannot be made."""
    if output.exists() and not force:
        raise UserError(f"{output} exists already; choose another --output, or replace it with --force.")
    if output.exists() and not (output / MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is no bundle, so --force does not replace it; choose another --output.")
    parent = next(folder for folder in (output.parent, *output.parent.parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"Cannot write to {parent}; choose an --output below a directory that is writable.")


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Yield a temporary directory beside `output`; whatever ends the block early removes it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, output: Path) -> None:
    """Give a whole bundle its name; one that was there before goes only after the new one stands."""
    old = output.with_name(f".{output.name}.old-{os.getpid()}")
    if output.exists():
        output.rename(old)
    partial.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
