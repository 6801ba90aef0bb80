"""What a new build of a target leaves alone: engines of other compute capabilities, and what is not of this program."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sttm_export.bundle.records import EngineRecord, read_sidecar, sha256_of, sidecar_path
from sttm_export.bundle.store import ENGINES, INDEX, TIMINGS, read_records
from sttm_export.bundle.sums import SUMS, read_sums
from sttm_export.errors import UserError

_REPORTS = ("report.json", "report.md")


@dataclass(frozen=True)
class Kept:
    """Engines that moved along into the directory of a new build, by their new names, and what to tell the user."""

    records: list[EngineRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # such as that a damaged engine was left out


def check_strangers(bundle: Path, target: str, graphs: Sequence[str]) -> None:
    """Refuse to replace a target's directory that holds something else than its engines.

    Raises:
        UserError: names the first file that is not of it.
    """
    folder = bundle / ENGINES / target
    if not folder.is_dir():
        return
    names = "|".join(map(re.escape, graphs))
    own = re.compile(rf"({names})(\.\w+)?\.(engine|engine\.json|log)|timing\.cache|report\.(json|md)|{INDEX}|{SUMS}")
    covered = _sums(folder)
    strangers = sorted(
        path.name for path in folder.iterdir() if path.name not in covered and not own.fullmatch(path.name)
    )
    if strangers:
        raise UserError(
            f"{folder} holds {strangers[0]!r}, which is in no {SUMS} and would go with the engines that are replaced; "
            "move it elsewhere."
        )


def engines_in_the_way(bundle: Path, target: str, capabilities: Sequence[str | None]) -> list[str]:
    """Return the compute capabilities, of those named, that the target has engines for; None stands for any."""
    there = {record.compute_capability for record in read_records(bundle, target) if record.status == "built"}
    return sorted(there if None in capabilities else there & set(capabilities))


def carry_over(bundle: Path, target: str, partial: Path, built: Sequence[EngineRecord]) -> Kept:
    """Take engines that a build does not replace into its directory, unchanged; those that are damaged are left out.

    Args:
        bundle: its directory.
        target: name of the target.
        partial: directory of the new build, from `engines_staging`.
        built: what was built; engines of the same graph and compute capability are replaced by it.
    """
    folder, kept = bundle / ENGINES / target, Kept()
    try:
        there = [record for record in read_records(bundle, target) if record.status == "built"]
    except UserError as error:
        kept.notes.append(f"engines that were there are left out: {error}")
        return kept
    made, sums = {(record.graph, record.compute_capability) for record in built}, _sums(folder)
    for record in there:
        if (record.graph, record.compute_capability) in made:
            continue
        if _is_whole(folder, record, sums):
            kept.records.append(_carry(folder, partial, record))
        else:
            kept.notes.append(
                f"the engine of {record.graph} for {record.compute_capability} is damaged and was left out; build it "
                f"again with --target {target} --compute-capability {record.compute_capability}"
            )
    for name in _REPORTS if kept.records else ():
        if name in sums and not (partial / name).exists():
            _link(folder / name, partial / name)
    return kept


def carry_timings(bundle: Path, target: str, partial: Path) -> None:
    """Copy the kernel times of a target's engines, where there are any, into the directory of a new build."""
    times = bundle / ENGINES / target / TIMINGS
    if times.is_file():
        shutil.copyfile(times, partial / TIMINGS)


def timings_notes(bundle: Path, target: str, partial: Path, first: EngineRecord) -> list[str]:
    """Say what became of the times that were there, by the sidecar of the first engine that was built."""
    sidecar = read_sidecar(partial / Path(first.file).name)
    if sidecar is not None and sidecar.timings == "kept":
        return ["kernel times of the last build were used again"]
    if sidecar is not None and sidecar.timings == "new" and (bundle / ENGINES / target / TIMINGS).is_file():
        return ["the timing cache is made anew: TensorRT does not take the last build's, of another version or GPU"]
    return []


def _is_whole(folder: Path, record: EngineRecord, sums: dict[str, str]) -> bool:
    engine = folder / Path(record.file).name
    names = (engine.name, sidecar_path(engine).name)
    return sums.get(engine.name) == record.sha256 and all(
        (folder / name).is_file() and sha256_of(folder / name) == sums.get(name) for name in names
    )


def _carry(folder: Path, partial: Path, record: EngineRecord) -> EngineRecord:
    """Link an engine, its sidecar and its log into the new directory; under another name where that is taken."""
    engine = folder / Path(record.file).name
    stem = engine.name.removesuffix(".engine")
    if (partial / engine.name).exists():
        # The GPU that was present had no capability in its engine's name, and the one that is here has none, too.
        stem = f"{record.graph}.{record.compute_capability}"
    place = partial / f"{stem}.engine"
    _link(engine, place)
    text = sidecar_path(engine).read_text(encoding="utf-8")
    if place.name != engine.name:
        text = json.dumps(json.loads(text) | {"engine": place.name}, indent=2, sort_keys=True) + "\n"
    sidecar_path(place).write_text(text, encoding="utf-8")
    log = folder / Path(record.log).name
    if record.log and log.is_file():
        _link(log, place.with_suffix(".log"))
    return dataclasses.replace(
        record,
        file=f"{record.target}/{place.name}",
        log=f"{record.target}/{place.with_suffix('.log').name}" if record.log else "",
    )


def _link(source: Path, place: Path) -> None:
    """A second name for the same bytes where the file system has that; an engine has gigabytes."""
    with contextlib.suppress(OSError):
        os.link(source, place)
        return
    shutil.copyfile(source, place)


def _sums(folder: Path) -> dict[str, str]:
    try:
        return read_sums(folder)
    except UserError:
        return {}
