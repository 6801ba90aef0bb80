"""Engines of graphs, one after the other, each in a process of its own and with a sidecar beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.records import BuildResult, EngineRecord, sha256_of, write_sidecar
from sttm_export.bundle.store import TIMINGS
from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines import worker
from sttm_export.engines.api import BuildOptions, EngineError, UnavailableError
from sttm_export.engines.children import Row, run_child
from sttm_export.engines.memory import scratch_bytes, with_workspace
from sttm_export.engines.progress import OnProgress, part_of, quiet
from sttm_export.errors import UserError

LARGEST_WORKSPACE = 2**24
"""MiB: 16 TiB, more than any GPU has."""
OPTIMIZATION_LEVELS = range(6)
# What most RTX machines at the edge have: Ampere (A2000, RTX 30) and Ada (RTX 4000 SFF, L4, RTX 40).
DEFAULT_RTX = ("sm86", "sm89")


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build."""

    onnx_path: Path
    """The graph; its weights are read from beside it."""
    target: TargetSpec
    capability: str | None = None
    """Such as `sm86`, for TensorRT-RTX; None there means portable over the RTX generations. Full TensorRT builds for
    the GPU that is present."""
    options: BuildOptions = dataclasses.field(default_factory=BuildOptions)
    row_counts: tuple[int, ...] = ()
    """Of the graph; the engine has a profile for each."""

    @property
    def name(self) -> str:
        """Of the engine's file, without its ending."""
        return f"{self.onnx_path.stem}.{self.capability}" if self.capability else self.onnx_path.stem


def plan_engines(
    graphs: Sequence[Path],
    targets: Sequence[TargetSpec],
    capabilities: Sequence[str] = (),
    options: BuildOptions = BuildOptions(),  # noqa: B008 # frozen, so one for all calls is fine
    specs: Sequence[GraphSpec] = (),
) -> list[EngineRequest]:
    """Return every engine of some graphs for some targets, target by target.

    Args:
        graphs: ONNX files.
        targets: what to build for.
        capabilities: those wanted; empty: sm86 and sm89 for TensorRT-RTX, the GPU that is present elsewhere.
        options: the same for every engine.
        specs: declarations of the graphs; needed of those with a free number of rows.

    Raises:
        UserError: a compute capability that none of the targets has, or an option that is not possible.
    """
    check_capabilities(targets, capabilities)
    check_options(options)
    rows = {spec.name: spec.row_counts for spec in specs}
    return [
        EngineRequest(graph, target, name, options, rows.get(graph.stem, ()))
        for target in targets
        for name in capabilities_for(target, capabilities)
        for graph in graphs
    ]


def build_engines(
    requests: Sequence[EngineRequest], out_dir: Path, on_progress: OnProgress = quiet
) -> list[EngineRecord]:
    """Build engines as `<out_dir>/<target>/<graph>.<compute capability>.engine`; one failure does not stop the others.

    A log lies beside every engine that was tried, a sidecar beside every one that was built.

    Args:
        requests: from `plan_engines`.
        out_dir: where the targets' directories go.
        on_progress: called with (graph, target and phase, fraction in [0, 1] of all engines).
    """
    records = []
    for place, request in enumerate(requests):
        told = part_of(on_progress, place, len(requests))
        records.append(_record(request, out_dir, told))
        told(f"{request.onnx_path.stem}, {request.target.name}: {records[-1].status}", 1.0)
    return records


def build_engine(request: EngineRequest, engine: Path, on_progress: OnProgress = quiet) -> BuildResult:
    """Build one engine in a process of its own, and write `<engine>.json` beside it.

    The engine is written under a temporary name and renamed when whole. Full TensorRT keeps its kernel times in
    `timing.cache` beside it, and starts from those that are there.

    Args:
        request: what to build.
        engine: the file.
        on_progress: called with (phase, fraction in [0, 1]); what it raises stops the build and comes back from here.

    Returns:
        The result; `skipped` with a reason where this machine cannot build for the target.

    Raises:
        UserError: the graph is missing.
        EngineError: TensorRT refused the graph or could not build it, or its process died or stood still.
        OSError: the disk is full.
    """
    if not request.onnx_path.is_file():
        raise UserError(f"{request.onnx_path} is missing; give the path of an exported graph.")
    started = time.perf_counter()
    partial = engine.with_name(f"{engine.name}.partial").absolute()
    try:
        here = worker.check_place(request.target)
        partial.parent.mkdir(parents=True, exist_ok=True)
        on_progress("starting TensorRT", 0.0)
        answer = run_child(
            worker.__name__, _asked(request, partial), lambda row: on_progress(row["phase"], row["fraction"])
        )
        partial.replace(engine)
    except UnavailableError as reason:
        return BuildResult("skipped", reason=str(reason))
    finally:
        partial.unlink(missing_ok=True)
    answer["options"]["compute_capability"] = request.capability or here or "portable"
    return _result(request, engine, answer, time.perf_counter() - started)


def check_available(target: TargetSpec) -> None:
    """Refuse a machine on which engines for a target cannot be built; this process loads no TensorRT for it.

    Raises:
        UnavailableError: says why, and where it works.
    """
    worker.check_place(target)
    run_child(worker.__name__, {"target": target.to_json()})


def check_options(options: BuildOptions) -> None:
    """Refuse values that are not possible; the `UserError` is one sentence for the first of them."""
    workspace, level = options.workspace_mib, options.optimization_level
    if workspace is not None and not 1 <= workspace <= LARGEST_WORKSPACE:
        raise UserError(
            f"--workspace {workspace} is not possible; give the builder's scratch memory in MiB, 1 to "
            f"{LARGEST_WORKSPACE}."
        )
    # TensorRT takes a higher level for 5, without a word.
    if level is not None and level not in OPTIMIZATION_LEVELS:
        raise UserError(f"Optimization level {level} is not possible; give one from 0 (fast to build) to 5.")


def check_capabilities(targets: Sequence[TargetSpec], wanted: Sequence[str]) -> None:
    """Refuse a compute capability that none of the targets has."""
    known = {name for target in targets for name in target.compute_capabilities}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        valid = "; ".join(f"{target.name}: {', '.join(target.compute_capabilities)}" for target in targets)
        raise UserError(f"Unknown compute capability '{unknown[0]}'; valid are, by target, {valid}.")


def capabilities_for(target: TargetSpec, wanted: Sequence[str]) -> list[str | None]:
    """Return what to build a target's engines for; None leaves it to the GPU that is present."""
    mine = [name for name in wanted if name in target.compute_capabilities]
    if mine:
        return list(dict.fromkeys(mine))
    return list(DEFAULT_RTX) if target.builds_without_gpu else [None]


def _asked(request: EngineRequest, partial: Path) -> Row:
    return {
        "target": request.target.to_json(),
        "capability": request.capability,
        "graph": str(request.onnx_path.absolute()),
        "engine": str(partial),
        "timings": str(partial.with_name(TIMINGS)),
        "row_counts": list(request.row_counts),
        "options": dataclasses.asdict(with_workspace(request.options, request.target, request.onnx_path)),
    }


def _result(request: EngineRequest, engine: Path, answer: Row, seconds: float) -> BuildResult:
    # Files by their names only: a bundle travels, the paths of the machine that built it do not.
    folder = f"{request.onnx_path.absolute().parent}/"
    messages = [(severity, text.replace(folder, "")) for severity, text in answer["log"]]
    log = tuple(f"[{severity}] {text}" for severity, text in messages)
    result = BuildResult(
        status="built",
        path=engine,
        size=engine.stat().st_size,
        sha256=sha256_of(engine),
        seconds=round(seconds, 3),
        tensorrt=answer["tensorrt"],
        options=answer["options"],
        scratch=scratch_bytes(log),
        warnings=tuple(text for severity, text in messages if severity == "WARNING"),
        log=log,
        timings=answer["timings"],
    )
    write_sidecar(result, engine, request.onnx_path, request.target)
    return result


def _record(request: EngineRequest, out_dir: Path, on_progress: OnProgress) -> EngineRecord:
    target, graph = request.target, request.onnx_path.stem
    engine = out_dir / target.name / f"{request.name}.engine"
    only = target.compute_capabilities[0] if len(target.compute_capabilities) == 1 else ""
    record = EngineRecord(target.name, request.capability or only, graph, "failed")
    heading = f"{graph}, {target.name}{f' {request.capability}' if request.capability else ''}"
    try:
        result = build_engine(request, engine, lambda phase, fraction: on_progress(f"{heading}: {phase}", fraction))
    except EngineError as failure:
        log = _write_log(engine, (str(failure),), out_dir)
        return dataclasses.replace(record, reason=str(failure), log=log)
    if result.status == "skipped":
        return dataclasses.replace(record, status="skipped", reason=result.reason)
    return dataclasses.replace(
        record,
        compute_capability=str(result.options["compute_capability"]),
        status="built",
        file=engine.relative_to(out_dir).as_posix(),
        sha256=result.sha256,
        bytes=result.size,
        seconds=result.seconds,
        log=_write_log(engine, result.log, out_dir),
    )


def _write_log(engine: Path, lines: Sequence[str], out_dir: Path) -> str:
    log = engine.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return log.relative_to(out_dir).as_posix()
