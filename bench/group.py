"""One graph of a model at its real size: exported, judged against its reference, built, with time and memory of each.

Run from the repository: `python -m bench.group --model llava-video-72b --output bench/results/group-72b.json`.

A model whose whole export takes hours and hundreds of gigabytes is tried so on a small machine: its groups of layers
are all alike. Weights are random. See bench/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench import machine
from sttm_export.cli import build_parser
from sttm_export.commands.export import make_plan
from sttm_export.contracts.target import find_target
from sttm_export.engines.build import EngineRequest, build_engine
from sttm_export.errors import UserError
from sttm_export.families.part import Part, State
from sttm_export.families.weights import open_weights
from sttm_export.graphs.export import export_graph
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.workflows.evidence import examine
from sttm_export.workflows.plan import ExportPlan

FRAMES = 2
T = TypeVar("T")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m bench.group", description=(__doc__ or "").split("\n", 1)[0])
    made.add_argument("--model", default="llava-video-72b")
    made.add_argument("--graph", help="name of the graph (default: the first group behind the merge layer)")
    made.add_argument("--compute-capability", default="sm86")
    made.add_argument("--no-engine", action="store_true", help="export and judge only")
    made.add_argument("--output", type=Path, help="the result file")
    made.add_argument("more", nargs="*", help="options of sttm-export, behind --")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Export, judge and build one graph; 1 where it departs from its reference, 2 where it cannot be done."""
    options = parser().parse_args(arguments)
    try:
        row = _measure(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(row, indent=1))
    if options.output:
        machine.write_result(options.output, {"rows": [row]})
    return 0 if row["passed"] else 1


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    base = ["export", "--model", options.model, "--budget", "0.5", "--random-weights", "0", "--decoder"]
    plan = make_plan(build_parser().parse_args([*base, *options.more]))
    part = _chosen(plan, options.graph)
    with tempfile.TemporaryDirectory(prefix="sttm-group-") as folder:
        return _run(plan, part, Path(folder), None if options.no_engine else options.compute_capability)


def _chosen(plan: ExportPlan, name: str | None) -> Part:
    wanted = name or plan.recipe.group_graph(plan.recipe.above[0]).name
    found = [part for part in plan.parts if part.name == wanted]
    if not found:
        names = ", ".join(part.name for part in plan.parts)
        raise UserError(f"{plan.model.name} has no graph {wanted}; give --graph one of {names}.")
    return found[0]


def _run(plan: ExportPlan, part: Part, folder: Path, capability: str | None) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    weights = open_weights(plan.model, part.shapes, None, 0)
    state = _timed(seconds, "weights", lambda: weights.read(part.shapes))
    clip = _clip(plan)
    state, losses = _quantized(part, state, clip, seconds)
    path = _timed(seconds, "export", lambda: _export(plan, part, state, folder))
    session = functools.partial(OrtSession, path, part.graph, low_memory=True)
    rules = plan.recipe.rules(part.graph)
    report, _ = _timed(seconds, "judge", lambda: examine(part, state, session, rules, clip, lambda *_: None))
    row: dict[str, Any] = {
        "model": plan.model.name,
        "graph": part.name,
        "parameters": part.parameters,
        "graph_bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "passed": report.passed,
        "worst": max(result.gate.needed / result.gate.tolerance.relative for result in report if result.gate),
        **losses,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    gc.collect()
    if capability is not None:
        counts = part.graph.row_counts
        request = EngineRequest(path, find_target("rtx"), capability, row_counts=counts)
        built = _timed(seconds, "build", lambda: build_engine(request, folder / "group.engine"))
        row |= {"engine_bytes": built.size, "scratch_bytes": built.scratch, "tensorrt": built.tensorrt}
    return row | {"seconds": {name: round(value, 1) for name, value in seconds.items()}}


def _quantized(part: Part, state: Any, clip: Any, seconds: dict[str, float]) -> tuple[Any, dict[str, Any]]:
    """Weights as the graph stores them, and what fewer bits lose, where the plan asks for them."""
    if part.quantizing is None:
        return state, {}
    quantizing, told = part.quantizing, lambda _done, _count: None
    made: State
    made, weights = _timed(seconds, "quantize", lambda: quantizing.apply(state, told))
    outputs, _ = _timed(seconds, "losses", lambda: quantizing.measure(state, made, clip, told))
    return dict(made), {"losses": dataclasses.asdict(weights + outputs)}


def _export(plan: ExportPlan, part: Part, state: Any, folder: Path) -> Path:
    path = export_graph(part.module(state), part.graph, folder, accumulate=plan.recipe.accumulate)
    gc.collect()
    return path


def _clip(plan: ExportPlan) -> dict[str, Any]:
    """Rows of a short prompt as no video made them: what is judged is one graph, not what comes before it."""
    noise, merge = np.random.default_rng(0), replace(plan.merge, frames=FRAMES)
    cells, channels, system = merge.cells, merge.channels, 16
    y, x = np.divmod(np.arange(cells), merge.width)
    box = np.stack([0 * y, y, x, y + 1, x + 1], axis=1).astype(np.int32)
    rows = noise.standard_normal((system + FRAMES * cells, channels), np.float32)
    return {
        "pixel_values": np.zeros((FRAMES, 3, 1, 1), np.float32),
        "system": noise.standard_normal((system, channels), np.float32),
        "features": noise.standard_normal((FRAMES, cells, channels), np.float32),
        "hidden": rows,
        "rows_exact": rows,
        "rows_int4": rows,
        "tokens": noise.standard_normal((cells, channels), np.float32),
        "token_box": box,
        "num_tokens": np.array(cells, np.int32),
    }


def _timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    start = time.perf_counter()
    made = work()
    seconds[name] = time.perf_counter() - start
    return made


if __name__ == "__main__":
    sys.exit(main())
