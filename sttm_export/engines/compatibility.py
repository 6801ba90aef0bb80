"""Does an engine run here? Its sidecar tells, before TensorRT is asked, which says "version tag does not match"."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from sttm_export.bundle.sidecar import Sidecar, sidecar_path
from sttm_export.contracts.records import read_json, read_record
from sttm_export.engines.api import Flavour
from sttm_export.engines.gpu import ask_gpu
from sttm_export.errors import UserError

# First bytes of the engines of TensorRT-RTX 1.7; seen in every one that was built here.
_RTX_MAGIC = b"vtrt"
BUILD_HERE = (
    "build it on this machine with `sttm-export build BUNDLE --target NAME`, or in the bundle with "
    "`bash device/build.sh`"
)


def read_sidecar(engine: Path) -> dict[str, Any]:
    """Return what is known of an engine; empty for one that has no sidecar, such as one that trtexec built by hand.

    Raises:
        UserError: the sidecar cannot be read.
    """
    path = sidecar_path(engine)
    if not path.exists():
        return {}
    try:
        data, faults = read_json(path), list[str]()
        if read_record(Sidecar, data, faults) is None:
            raise ValueError("; ".join(faults[:3]))
        flavour, _ = built_by(data)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {BUILD_HERE}.") from error
    if flavour not in {"tensorrt", "tensorrt-rtx"}:
        raise UserError(f"{path} names '{flavour}', expected tensorrt or tensorrt-rtx; {BUILD_HERE}.")
    return dict(data)


def built_by(sidecar: dict[str, Any]) -> tuple[str, str]:
    """Return flavour and full version of the TensorRT that built an engine."""
    flavour, version = str(sidecar["tensorrt"]).split(" ", 1)
    return flavour, version


def flavour_of(engine: Path, sidecar: dict[str, Any]) -> Flavour:
    """Return which TensorRT an engine is for; without a sidecar its first bytes tell."""
    if sidecar:
        return "tensorrt-rtx" if built_by(sidecar)[0] == "tensorrt-rtx" else "tensorrt"
    with engine.open("rb") as file:
        return "tensorrt-rtx" if file.read(len(_RTX_MAGIC)) == _RTX_MAGIC else "tensorrt"


def check_runs_here(sidecar: dict[str, Any], api: Any, capability: str | None) -> None:
    """Refuse an engine that cannot run with this TensorRT on this GPU; every reason in one sentence.

    Args:
        sidecar: what `read_sidecar` gave; an empty one is not judged.
        api: the loaded `Api`, or anything with `flavour` and `version`.
        capability: the GPU's, such as `sm87`; None for no GPU.

    Raises:
        UserError: names what the engine was built with, what is here, and what to do.
    """
    faults = why_not_here(sidecar, api, capability)
    if faults:
        raise UserError(f"{sidecar.get('engine', 'The engine')} does not run here: {'; '.join(faults)}; {BUILD_HERE}.")


def why_not_here(sidecar: dict[str, Any], api: Any, capability: str | None) -> list[str]:
    """Return why an engine does not run here, as phrases; empty if it does, as far as its sidecar tells.

    An engine runs with the very version that built it (NVIDIA, "Engine Compatibility", TensorRT 11.1 and TensorRT-RTX).
    """
    versions = _version_faults(sidecar, api) if sidecar else []
    return [*versions, *_machine_faults(sidecar, capability)]


def _version_faults(sidecar: dict[str, Any], api: Any) -> list[str]:
    built, here = " ".join(built_by(sidecar)), f"{api.flavour} {api.version}"
    return [f"it was built with {built}, here is {here}"] if built != here else []


def _machine_faults(sidecar: dict[str, Any], capability: str | None) -> list[str]:
    faults = []
    built, here = sidecar.get("platform"), f"{platform.system()} {platform.machine()}"
    if built and built != here:
        faults.append(f"it was built for {built}, this is {here}")
    wanted = sidecar.get("compute_capability")
    if capability is None:
        faults.append(f"this machine has no NVIDIA GPU that can be used ({ask_gpu()[1].rstrip('.')})")
    elif wanted not in {None, "", "portable", capability}:
        faults.append(f"it was built for a GPU of compute capability {wanted}, this one has {capability}")
    return faults
