"""What is known of an engine after it was built, skipped or refused."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from sttm_export.contracts.records import Count, Range

Status = Literal["built", "skipped", "failed"]
_READABLE = 320  # characters of a reason; TensorRT repeats itself, and the log has everything


@dataclass(frozen=True)
class BuildResult:
    """One build.

    Attributes:
        status: `built`, or `skipped` with the reason.
        reason: one sentence; empty if built.
        path: the engine; None if skipped.
        size: bytes.
        sha256: of the engine; empty if skipped.
        seconds: parsing and building.
        tensorrt: version that built it.
        options: every option that was set, for the sidecar.
        scratch: bytes of scratch memory that one run of the engine needs, as the log states; None if it does not.
        warnings: TensorRT's warnings.
        log: every line of level info and above.
        timings: `kept` where the kernel times of an earlier build were used, `new` where none were there or TensorRT
            did not take them; empty for TensorRT-RTX, which keeps none.
    """

    status: Literal["built", "skipped"]
    reason: str = ""
    path: Path | None = None
    size: int = 0
    sha256: str = ""
    seconds: float = 0.0
    tensorrt: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    scratch: int | None = None
    warnings: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    timings: Literal["", "new", "kept"] = ""


@dataclass(frozen=True)
class EngineRecord:
    """One engine of a bundle, as its manifest carries it.

    Attributes:
        target: name of the target.
        compute_capability: such as `sm86`; empty where it is only known on the device.
        graph: name of the graph.
        status: built, skipped or failed.
        reason: one sentence; empty if built.
        file: path below the engines' directory, with forward slashes; empty if not built.
        sha256: of the engine; empty if not built. It names this file: full TensorRT times kernels, so another build of
            the same graph may choose others.
        bytes: size of the engine.
        seconds: parsing and building.
        log: path of the log below the engines' directory; empty if nothing ran.
    """

    target: str
    compute_capability: str
    graph: str
    status: Status
    reason: str = ""
    file: str = ""
    sha256: str = ""
    bytes: Count = 0
    seconds: Annotated[float, Range(0.0, 1e9)] = 0.0
    log: str = ""

    def failure_lines(self) -> list[str]:
        """Two lines about an engine that is not there: which, and why, as short as reads well."""
        words = self.reason.rstrip(".")
        if len(words) > _READABLE:
            kept = words[:_READABLE].rpartition(" ")[0].rstrip(";,:")
            words = f"{kept} ... ({len(words) - len(kept)} more characters in the log)"
        name = f"{self.target} {self.compute_capability}".rstrip()
        return [f"The {name} engine of {self.graph} could not be built.", f"{words}."]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class EngineIndex:
    """`engines.json`, a list, as a table for the reader."""

    engines: tuple[EngineRecord, ...]


def sha256_of(path: Path) -> str:
    """Hash a file in pieces; engines and weights reach gigabytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
