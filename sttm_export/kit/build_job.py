"""A job: build the engine of one graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.options import BuildOptions
from sttm_export.engines.targets import build_targets
from sttm_export.kit.jobs import serve_job


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Build, and return the engine's record."""
    target = TargetSpec.from_json(request["target"])
    options = BuildOptions(workspace_mib=request["workspace_mib"])
    records = build_targets(
        [Path(request["onnx"])],
        [target],
        out_dir=Path(request["engines"]),
        on_progress=_printer(),
        options=options,
    )
    return {"record": dataclasses.asdict(records[0])}


def _printer() -> Callable[[str, float], None]:
    """Print a line for every tenth of the way: enough to see life, readable in the log of a CI."""
    shown = -1

    def tell(what: str, fraction: float) -> None:
        nonlocal shown
        tenth = int(fraction * 10)
        if tenth > shown:
            shown = tenth
            print(f"      {fraction:4.0%}  {what}", flush=True)

    return tell


if __name__ == "__main__":
    serve_job(build)
