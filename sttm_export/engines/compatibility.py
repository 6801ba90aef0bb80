"""Which engines run here, and why others do not: sidecars tell, before TensorRT says "version tag does not match"."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.bundle.records import BUILD_HERE, EngineRecord, Sidecar, read_sidecar
from sttm_export.bundle.store import ENGINES
from sttm_export.engines.api import Api, Flavour, UnavailableError, load_api
from sttm_export.engines.driver import ask_gpu, gpu_capability
from sttm_export.errors import UserError, did_you_mean

# First bytes of the engines of TensorRT-RTX 1.7; seen in every one that was built here.
_RTX_MAGIC = b"vtrt"


@dataclass(frozen=True)
class Selection:
    """Engines that run here, all of one target."""

    target: str
    engines: dict[str, Path]
    """By the name of their graph."""


def engines_here(bundle: Bundle, target: str | None = None) -> Selection:
    """Take the first target of a bundle, or only the one that is named, whose engines run on this machine.

    Raises:
        UserError: there are no engines, or none of them runs here; says why for each target, and what to do.
    """
    names = [graph.name for graph in bundle.manifest.graphs]
    return select_engines(bundle.path / ENGINES, bundle.engine_records(), names, target)


def select_engines(
    folder: Path, records: Sequence[EngineRecord], graphs: Sequence[str], target: str | None = None
) -> Selection:
    """The same, by the records of the engines, whose files lie below `folder`; `graphs` are those that are needed."""
    names = list(dict.fromkeys(record.target for record in records))
    if target is not None and target not in names:
        there = f".{did_you_mean(target, names)}" if names else f" or any other target; {BUILD_HERE}."
        raise UserError(f"The bundle has no engines for '{target}'{there}")
    reasons = []
    for name in [target] if target else names:
        engines, reason = _of_target(folder, [record for record in records if record.target == name], graphs)
        if not reason:
            return Selection(name, engines)
        reasons.append(f"{name}: {reason}")
    if not reasons:
        raise UserError(f"The bundle has no engines; {BUILD_HERE}.")
    raise UserError(f"The bundle has no engines that run here ({'; '.join(reasons)}); {BUILD_HERE}.")


def flavour_of(engine: Path, sidecar: Sidecar | None) -> Flavour:
    """Return which TensorRT an engine is for; without a sidecar its first bytes tell."""
    if sidecar is not None:
        return sidecar.flavour
    with engine.open("rb") as file:
        return "tensorrt-rtx" if file.read(len(_RTX_MAGIC)) == _RTX_MAGIC else "tensorrt"


def check_runs_here(sidecar: Sidecar | None, api: Api, capability: str | None) -> None:
    """Refuse an engine that cannot run with this TensorRT on this GPU.

    Raises:
        UserError: every reason in one sentence: what the engine was built with, what is here, and what to do.
    """
    faults = why_not_here(sidecar, api, capability)
    if faults:
        name = sidecar.engine if sidecar else "The engine"
        raise UserError(f"{name} does not run here: {'; '.join(faults)}; {BUILD_HERE}.")


def why_not_here(sidecar: Sidecar | None, api: Api, capability: str | None) -> list[str]:
    """Return why an engine does not run here, as phrases; empty if it does, as far as its sidecar tells.

    An engine runs with the very version that built it (NVIDIA, "Engine Compatibility", TensorRT 11.1 and TensorRT-RTX).
    Where there is no sidecar, only a GPU is asked for.
    """
    here, system = f"{api.flavour} {api.version}", f"{platform.system()} {platform.machine()}"
    # Of an engine without a sidecar nothing is known that could speak against it.
    sidecar, faults = sidecar or Sidecar(here), []
    if sidecar.tensorrt != here:
        faults.append(f"it was built with {sidecar.tensorrt}, here is {here}")
    if sidecar.platform not in {None, system}:
        faults.append(f"it was built for {sidecar.platform}, this is {system}")
    wanted = sidecar.compute_capability
    if capability is None:
        faults.append(f"this machine has no NVIDIA GPU that can be used ({ask_gpu()[1].rstrip('.')})")
    elif wanted not in {None, "", "portable", capability}:
        faults.append(f"it was built for a GPU of compute capability {wanted}, this one has {capability}")
    return faults


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
    if sidecar is not None and sidecar.sha256 not in {None, sha256}:
        return f"{engine.name} has another sha256 in its sidecar than in the index of its target"
    try:
        api = load_api(flavour_of(engine, sidecar))
    except UnavailableError as error:
        return str(error)
    return "; ".join(why_not_here(sidecar, api, gpu_capability()))
