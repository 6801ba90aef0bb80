"""One engine with trtexec: the same checks, log and sidecar as with the Python API."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

from sttm_export.bundle.records import BuildResult, CacheUse, sha256_of
from sttm_export.bundle.sidecar import write_sidecar
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines import timing_cache
from sttm_export.engines.faults import EngineError
from sttm_export.engines.logs import exhausted, memory_reason, portable_lines, scratch_bytes
from sttm_export.engines.meminfo import free_memory
from sttm_export.engines.memory import build_memory
from sttm_export.engines.options import BuildOptions
from sttm_export.engines.progress import OnProgress
from sttm_export.engines.trtexec import run_trtexec, trtexec_command

# trtexec tells no fraction; these lines show how far it is.
_LANDMARKS = {
    "Start parsing network model": ("parsing", 0.02),
    "Finished parsing network model": ("timing kernels", 0.1),
    "Engine generation completed": ("writing the engine", 0.95),
    "&&&& PASSED": ("done", 1.0),
}


def build_with_trtexec(
    program: str,
    version: str,
    compute_capability: str,
    onnx_path: Path,
    target: TargetSpec,
    out_path: Path,
    options: BuildOptions,
    on_progress: OnProgress | None = None,
) -> BuildResult:
    """Build one engine.

    trtexec itself lets inputs and outputs be row-major only, unless it is told otherwise (its `sampleEngines.cpp`). It
    works in a temporary directory beside the engine, since it writes the timing cache itself, whatever comes.

    Args:
        program: path of trtexec.
        version: TensorRT version of it.
        compute_capability: of the GPU that is present.
        onnx_path: the graph.
        target: what to build for.
        out_path: the engine.
        options: already checked.
        on_progress: called with (phase, fraction in [0, 1]); the fraction goes by landmarks of the log.

    Raises:
        UserError: the timing cache is not one for this machine.
        EngineError: trtexec failed; with its own words for why.
    """
    out_path.parent.mkdir(parents=True, exist_ok=True)
    started, lines = time.perf_counter(), list[str]()
    with tempfile.TemporaryDirectory(dir=out_path.parent, prefix=".trtexec-") as name:
        folder = Path(name)
        before, inside = _stage_cache(options, folder, version, compute_capability)
        engine = folder / out_path.name
        command = trtexec_command(target, onnx_path, engine, inside, program=program)
        _run(command, onnx_path, version, lines, options, on_progress)
        if not engine.is_file():
            raise EngineError(f"trtexec {version} said that all is well, but left no engine of {onnx_path.name}.")
        after = inside.timing_cache.read_bytes() if inside.timing_cache and inside.timing_cache.is_file() else b""
        use = _use(options, before, after)
        engine.replace(out_path)
    folders = [folder, onnx_path.parent, Path(program).parent]
    log = portable_lines(lines, folders)
    result = BuildResult(
        status="built",
        path=out_path,
        size=out_path.stat().st_size,
        sha256=sha256_of(out_path),
        seconds=round(time.perf_counter() - started, 3),
        tensorrt=version,
        options=_recorded(options, compute_capability),
        scratch=scratch_bytes(lines),
        warnings=tuple(line.split("[W] ", 1)[1] for line in log if "[W] " in line),
        log=log,
        timing_cache=use,
        built_with="trtexec",
        command=portable_lines(command, folders),
    )
    write_sidecar(result, out_path, onnx_path, target)
    if options.timing_cache is not None and not options.frozen_timing_cache:
        timing_cache.write_cache(options.timing_cache, after, version, compute_capability)
    return result


def _stage_cache(options: BuildOptions, folder: Path, version: str, gpu: str) -> tuple[bytes, BuildOptions]:
    """Copy a cache into the working directory; return its content and the options that name the copy."""
    cache = options.timing_cache
    if cache is None:
        return b"", options
    content = timing_cache.read_cache(cache, version, gpu, frozen=options.frozen_timing_cache)
    copy = folder / cache.name
    if content:
        copy.write_bytes(content)
    return content, dataclasses.replace(options, timing_cache=copy)


def _run(
    command: list[str],
    onnx_path: Path,
    version: str,
    lines: list[str],
    options: BuildOptions,
    on_progress: OnProgress | None,
) -> None:
    free, of_system = build_memory("tensorrt"), free_memory()

    def on_line(line: str) -> None:
        lines.append(line)
        for text, (phase, fraction) in _LANDMARKS.items():
            if on_progress is not None and text in line:
                on_progress(phase, fraction)

    try:
        run_trtexec(command, on_line)
    except EngineError as error:
        reason = memory_reason(lines, options.workspace_mib, free)
        if reason is None and str(error) == "signal 9":
            reason = f"the system ended trtexec; {exhausted(0, of_system)}"
        errors = "; ".join(line.split("[E] ", 1)[1] for line in lines if "[E] " in line)
        why = reason or errors or f"{error}, and no error in its log"
        raise EngineError(f"trtexec {version} could not build {onnx_path.name}: {why}.") from error


def _use(options: BuildOptions, before: bytes, after: bytes) -> CacheUse | None:
    if options.timing_cache is None:
        return None
    return timing_cache.use_of(options.timing_cache, before, after, frozen=options.frozen_timing_cache)


def _recorded(options: BuildOptions, compute_capability: str) -> dict[str, object]:
    """The keys of `configure.read_options`; what was left to TensorRT is None, as trtexec does not say it."""
    return {
        "strongly_typed": True,
        "tf32": False,
        "optimization_level": options.optimization_level,
        "workspace_mib": options.workspace_mib,
        "version_compatible": options.version_compatible,
        "strip_weights": options.strip_weights,
        "compute_capability": compute_capability,
    }
