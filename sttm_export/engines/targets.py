"""Every graph of a bundle for every target that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sttm_export.bundle.records import BuildResult, EngineRecord
from sttm_export.bundle.store import TIMINGS
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.build import DEFAULTS, build_engine
from sttm_export.engines.faults import EngineError
from sttm_export.engines.options import BuildOptions, check_options
from sttm_export.engines.progress import OnProgress, part_of
from sttm_export.errors import UserError

# What most RTX machines at the edge have: Ampere (A2000, RTX 30) and Ada (RTX 4000 SFF, L4, RTX 40).
DEFAULT_RTX = ("sm86", "sm89")


def build_targets(
    graphs: Sequence[Path],
    targets: Sequence[TargetSpec],
    compute_capabilities: Sequence[str] = (),
    out_dir: Path = Path("engines"),
    on_progress: OnProgress | None = None,
    *,
    options: BuildOptions = DEFAULTS,
) -> list[EngineRecord]:
    """Build all engines, one after the other, as `<out_dir>/<target>/<graph>.<compute capability>.engine`.

    A log lies beside every engine that was tried, a sidecar beside every one that was built, and full TensorRT's kernel
    times in `<out_dir>/<target>/timing.cache`, which is read where it is there. One failure does not stop the others.

    Args:
        graphs: ONNX files.
        targets: what to build for.
        compute_capabilities: those wanted; each must belong to one of the targets. Empty: sm86 and sm89 for
            TensorRT-RTX, the GPU that is present elsewhere.
        out_dir: where the targets' directories go.
        on_progress: called with (graph, target and phase, fraction in [0, 1] of all engines).
        options: the same for every engine.

    Returns:
        One record for every graph, target and compute capability.

    Raises:
        UserError: a compute capability that none of the targets has, or an option that is not possible.
    """
    check_options(options)
    plan = [(target, name) for target in targets for name in capabilities_for(target, compute_capabilities)]
    check_capabilities(targets, compute_capabilities)
    wanted = [(target, name, graph) for target, name in plan for graph in graphs]
    records = []
    for place, (target, name, graph) in enumerate(wanted):
        told = None if on_progress is None else part_of(on_progress, place, len(wanted))
        records.append(_record(graph, target, name, out_dir, told, options))
        if told is not None:
            told(f"{graph.stem}, {target.name}: {records[-1].status}", 1.0)
    return records


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


def _record(
    graph: Path,
    target: TargetSpec,
    capability: str | None,
    out_dir: Path,
    on_progress: OnProgress | None,
    options: BuildOptions,
) -> EngineRecord:
    stem = f"{graph.stem}.{capability}" if capability else graph.stem
    engine = out_dir / target.name / f"{stem}.engine"
    heading = f"{graph.stem}, {target.name}{f' {capability}' if capability else ''}"
    told = None if on_progress is None else _prefixed(on_progress, heading)
    name = capability or (target.compute_capabilities[0] if len(target.compute_capabilities) == 1 else "")
    try:
        result = build_engine(
            graph,
            target,
            capability,
            engine,
            options=options,
            on_progress=told,
            isolated=target.builds_without_gpu,
            timing_cache=engine.with_name(TIMINGS),
        )
    except EngineError as failure:
        log = _write_log(engine, (str(failure),))
        return EngineRecord(target.name, name, graph.stem, "failed", str(failure), log=_below(log, out_dir))
    if result.status == "skipped":
        return EngineRecord(target.name, name, graph.stem, "skipped", result.reason)
    return _built(result, EngineRecord(target.name, name, graph.stem, "built"), engine, out_dir)


def _built(result: BuildResult, record: EngineRecord, engine: Path, out_dir: Path) -> EngineRecord:
    log = _write_log(engine, result.log)
    return EngineRecord(
        target=record.target,
        compute_capability=str(result.options["compute_capability"]),
        graph=record.graph,
        status="built",
        file=_below(engine, out_dir),
        sha256=result.sha256,
        bytes=result.size,
        seconds=result.seconds,
        log=_below(log, out_dir),
    )


def _prefixed(on_progress: OnProgress, heading: str) -> OnProgress:
    return lambda phase, fraction: on_progress(f"{heading}: {phase}", fraction)


def _write_log(engine: Path, lines: Sequence[str]) -> Path:
    log = engine.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return log


def _below(path: Path, out_dir: Path) -> str:
    return path.relative_to(out_dir).as_posix()
