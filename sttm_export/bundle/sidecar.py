"""The JSON beside an engine: what it was built from, with what, how and where; the engine's bytes stay TensorRT's."""

from __future__ import annotations

import dataclasses
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.bundle.records import BuildResult, sha256_of
from sttm_export.contracts.target import TargetSpec


@dataclass(frozen=True)
class Sidecar:
    """What is read back of a sidecar, and so must be as it is written; the rest is for people."""

    tensorrt: str
    compute_capability: str | None = None
    platform: str | None = None
    graph: str | None = None
    graph_sha256: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def sidecar_path(engine: Path) -> Path:
    """Where the sidecar of an engine lies."""
    return engine.with_name(engine.name + ".json")


def write_sidecar(result: BuildResult, engine: Path, onnx_path: Path, target: TargetSpec) -> None:
    """Write `<engine>.json` for an engine that was built."""
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
