"""Which engines of a bundle run on this machine: of one target, one for every graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.bundle.records import EngineRecord
from sttm_export.bundle.store import ENGINES
from sttm_export.engines.api import load_api
from sttm_export.engines.compatibility import BUILD_HERE, flavour_of, read_sidecar, why_not_here
from sttm_export.engines.faults import UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Selection:
    """Engines that run here.

    Attributes:
        target: name of the target they were built for.
        engines: path of each graph's engine, by the graph's name.
    """

    target: str
    engines: dict[str, Path]


def engines_here(bundle: Bundle, target: str | None = None) -> Selection:
    """Return an engine of every graph of a bundle that runs on this machine; see `select_engines`."""
    names = [graph.name for graph in bundle.manifest.graphs]
    return select_engines(bundle.path / ENGINES, bundle.engine_records(), names, target)


def select_engines(
    folder: Path, records: Sequence[EngineRecord], graphs: Sequence[str], target: str | None = None
) -> Selection:
    """Take the first target whose engines run on this machine.

    Args:
        folder: the engines' directory of a bundle, where the records' files lie.
        records: what is known of the bundle's engines.
        graphs: names of the graphs that are needed.
        target: consider only this one.

    Raises:
        UserError: there are no engines, or none of them runs here; says why for each target, and what to do.
    """
    names = list(dict.fromkeys(record.target for record in records))
    if target is not None and target not in names:
        raise UserError(_unknown(target, names))
    reasons = []
    for name in [target] if target else names:
        engines, reason = _of_target(folder, [record for record in records if record.target == name], graphs)
        if not reason:
            return Selection(name, engines)
        reasons.append(f"{name}: {reason}")
    if not reasons:
        raise UserError(f"The bundle has no engines; {BUILD_HERE}.")
    raise UserError(f"The bundle has no engines that run here ({'; '.join(reasons)}); {BUILD_HERE}.")


def _of_target(folder: Path, records: list[EngineRecord], graphs: Sequence[str]) -> tuple[dict[str, Path], str]:
    """Return an engine for every graph, or the reason why the first that lacks one does."""
    engines = {}
    for graph in graphs:
        mine = [record for record in records if record.graph == graph]
        built = [record for record in mine if record.status == "built"]
        reasons = [record.reason for record in mine if record.status != "built"]
        for record in built:
            reason = _why_not(folder / record.file, record.sha256)
            if not reason:
                engines[graph] = folder / record.file
                break
            reasons.append(reason)
        if graph not in engines:
            return {}, ", ".join(dict.fromkeys(reason.rstrip(".") for reason in reasons)) or f"{graph} was not built"
    return engines, ""


def _why_not(engine: Path, sha256: str) -> str:
    if not engine.is_file():
        return f"{engine.name} is missing"
    sidecar = read_sidecar(engine)
    # Who loads the engine holds its bytes to the sidecar.
    if sidecar.get("sha256", sha256) != sha256:
        return f"{engine.name} has another sha256 in its sidecar than in the index of its target"
    try:
        api = load_api(flavour_of(engine, sidecar))
    except UnavailableError as error:
        return str(error)
    return "; ".join(why_not_here(sidecar, api, gpu_capability()))


def _unknown(target: str, names: Sequence[str]) -> str:
    if not names:
        return f"The bundle has no engines for '{target}' or any other target; {BUILD_HERE}."
    return f"The bundle has no engines for '{target}'.{did_you_mean(target, names)}"
