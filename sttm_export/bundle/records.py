"""What is known of an engine: after its build, in the JSON beside it, and in the index of its target.

The engine's own bytes stay as TensorRT wrote them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from sttm_export.contracts.records import Count, Range, read_json, read_record
from sttm_export.contracts.target import TargetSpec
from sttm_export.errors import UserError

Status = Literal["built", "skipped", "failed"]
Timings = Literal["", "new", "kept"]
_READABLE = 320  # characters of a reason; TensorRT repeats itself, and the log has everything
BUILD_HERE = (
    "build it on this machine with `sttm-export build BUNDLE --target NAME`, or in the bundle with "
    "`bash device/build.sh`"
)


@dataclass(frozen=True)
class BuildResult:
    """One build: `built`, or `skipped` with the reason and nothing else."""

    status: Literal["built", "skipped"]
    reason: str = ""
    path: Path | None = None
    size: int = 0
    sha256: str = ""
    seconds: float = 0.0
    tensorrt: str = ""
    """Version that built it."""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """As TensorRT took them, and `compute_capability`."""
    scratch: int | None = None
    """Bytes of scratch memory that one run of the engine needs; None where the log does not state them."""
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    """Every line of level info and above."""
    timings: Timings = ""
    """`kept` where the kernel times of an earlier build were used, `new` where there were none or TensorRT did not take
    them; empty for TensorRT-RTX, which has none."""


@dataclass(frozen=True)
class Sidecar:
    """What is read back of the JSON beside an engine, and so must be as it is written; the rest is for people."""

    tensorrt: str
    """Flavour and full version, `tensorrt 10.3.0.30`: an engine runs with no other."""
    engine: str = "The engine"
    sha256: str | None = None
    compute_capability: str | None = None
    platform: str | None = None
    timings: str = ""

    @property
    def flavour(self) -> Literal["tensorrt", "tensorrt-rtx"]:
        """Which TensorRT built it."""
        return "tensorrt-rtx" if self.tensorrt.startswith("tensorrt-rtx ") else "tensorrt"


@dataclass(frozen=True)
class EngineRecord:
    """One engine of a bundle, as the index of its target carries it."""

    target: str
    compute_capability: str  # such as `sm86`; empty where it is only known on the device
    graph: str
    status: Status
    reason: str = ""  # one sentence; empty if built
    file: str = ""  # below the engines' directory, with forward slashes; empty if not built
    # Names this file: another build of the same graph may give other bytes, as full TensorRT times kernels.
    sha256: str = ""
    bytes: Count = 0
    seconds: Annotated[float, Range(0.0, 1e9)] = 0.0
    log: str = ""  # below the engines' directory; empty if nothing ran

    def failure_lines(self) -> list[str]:
        """Two lines about an engine that is not there: which, and why, as short as reads well."""
        words = self.reason.rstrip(".")
        if len(words) > _READABLE:
            kept = words[:_READABLE].rpartition(" ")[0].rstrip(";,:")
            words = f"{kept} ... ({len(words) - len(kept)} more characters in the log)"
        name = f"{self.target} {self.compute_capability}".rstrip()
        return [f"The {name} engine of {self.graph} could not be built.", f"{words}."]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class EngineIndex:
    """`engines.json`, a list, as a table for the reader."""

    engines: tuple[EngineRecord, ...]


def sidecar_path(engine: Path) -> Path:
    """Where the sidecar of an engine lies."""
    return engine.with_name(engine.name + ".json")


def write_sidecar(result: BuildResult, engine: Path, onnx_path: Path, target: TargetSpec) -> None:
    """Write `<engine>.json` for an engine that was built: from what, with what, how and where."""
    sidecar = {
        "engine": engine.name,
        "sha256": result.sha256,
        "bytes": result.size,
        "graph": onnx_path.name,
        "graph_sha256": sha256_of(onnx_path),
        "target": target.name,
        "compute_capability": result.options["compute_capability"],
        "tensorrt": f"{target.flavour} {result.tensorrt}",
        "platform": f"{platform.system()} {platform.machine()}",
        "options": result.options,
        "timings": result.timings,
        "scratch_bytes": result.scratch,
        "seconds": result.seconds,
        "warnings": list(result.warnings),
    }
    text = json.dumps(sidecar, indent=2, sort_keys=True) + "\n"
    sidecar_path(engine).write_text(text, encoding="utf-8")


def read_sidecar(engine: Path) -> Sidecar | None:
    """Return what is known of an engine; None for one that has no sidecar, such as one that trtexec built.

    Raises:
        UserError: the sidecar cannot be read.
    """
    path = sidecar_path(engine)
    if not path.exists():
        return None
    faults: list[str] = []
    try:
        sidecar: Sidecar | None = read_record(Sidecar, read_json(path), faults)
    except ValueError as error:
        sidecar, faults = None, [str(error)]
    if sidecar is None:
        raise UserError(f"{path} is damaged ({'; '.join(faults[:3])}); {BUILD_HERE}.")
    if not sidecar.tensorrt.startswith(("tensorrt ", "tensorrt-rtx ")):
        raise UserError(f"{path} names '{sidecar.tensorrt}', expected tensorrt or tensorrt-rtx; {BUILD_HERE}.")
    return sidecar


def sha256_of(path: Path) -> str:
    """Hash a file in pieces; engines and weights reach gigabytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
