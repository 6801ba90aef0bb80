"""One graph to one engine; provenance goes to a sidecar, the engine's bytes stay as TensorRT wrote them for trtexec."""

from __future__ import annotations

import json
import platform
import re
import time
from pathlib import Path
from typing import Any

from sttm_export.engines.api import Api, Message, load_api, parse_graph
from sttm_export.engines.faults import EngineError, UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.engines.progress import OnProgress, PhaseTree
from sttm_export.engines.records import BuildResult, sha256_of
from sttm_export.errors import UserError
from sttm_export.spec.target import TargetSpec

_SCRATCH = re.compile(r"Max Scratch Memory: (\d+) bytes")


def build_engine(
    onnx_path: Path,
    target: TargetSpec,
    compute_capability: str | None,
    out_path: Path,
    *,
    on_progress: OnProgress | None = None,
) -> BuildResult:
    """Build one engine in this process.

    The engine is written under a temporary name and renamed when whole, with `<out_path>.json` beside it.

    Args:
        onnx_path: the graph; its external data is read from beside it.
        target: what to build for.
        compute_capability: such as `sm86`, for TensorRT-RTX; None there means portable over the RTX generations. Full
            TensorRT builds for the GPU that is present.
        out_path: the engine.
        on_progress: called with (phase, fraction in [0, 1]).

    Returns:
        The result; `skipped` with a reason where this machine cannot build for the target.

    Raises:
        UserError: the graph is missing, or the target does not have the compute capability.
        EngineError: TensorRT refused the graph or could not build it.
    """
    if not onnx_path.is_file():
        raise UserError(f"{onnx_path} is missing; give the path of an exported graph.")
    check_capability(target, compute_capability)
    try:
        api = available_api(target)
    except UnavailableError as reason:
        return BuildResult("skipped", reason=str(reason))
    return _build(api, onnx_path, target, compute_capability, out_path, on_progress)


def check_capability(target: TargetSpec, compute_capability: str | None) -> None:
    """Refuse a compute capability that the target does not have, with the list of those it has."""
    if compute_capability is not None and compute_capability not in target.compute_capabilities:
        valid = ", ".join(target.compute_capabilities)
        raise UserError(
            f"Target '{target.name}' has no compute capability '{compute_capability}'; give one of: {valid}."
        )


def available_api(target: TargetSpec) -> Api:
    """Return the TensorRT that builds for a target on this machine.

    Raises:
        UnavailableError: there is none; the sentence says why and where it works.
    """
    if target.builds_without_gpu:
        return load_api(target.flavour)
    capability = gpu_capability()
    if capability not in target.compute_capabilities or (target.built == "device" and platform.machine() != "aarch64"):
        raise UnavailableError(_not_here(target, capability))
    api = load_api(target.flavour)
    found = tuple(int(part) for part in api.version.split(".")[: len(target.tensorrt)])
    if found != target.tensorrt:
        raise UnavailableError(
            f"{target.name} has TensorRT {target.tensorrt_version}, here is {api.version}, and an engine runs only "
            "with the version that built it; build on a machine with that version, or choose the target that has yours."
        )
    return api


def _not_here(target: TargetSpec, capability: str | None) -> str:
    need = " or ".join(target.compute_capabilities)
    here = f"here is {capability} on {platform.machine()}" if capability else "this machine has no NVIDIA GPU"
    place = "on the device with the bundle's device kit" if target.built == "device" else "on a host with such a GPU"
    return (
        f"TensorRT {target.tensorrt_version} builds for {target.name} only on its own GPU ({need}), and {here}; "
        f"build {place}, or use --target rtx here."
    )


def _build(
    api: Api,
    onnx_path: Path,
    target: TargetSpec,
    compute_capability: str | None,
    out_path: Path,
    on_progress: OnProgress | None,
) -> BuildResult:
    messages: list[Message] = []
    tree = PhaseTree(on_progress)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    partial = out_path.with_name(out_path.name + ".partial")
    started = time.perf_counter()
    try:
        options = _serialize(api, onnx_path, compute_capability, partial, messages, tree)
        partial.replace(out_path)
    finally:
        partial.unlink(missing_ok=True)
    result = BuildResult(
        status="built",
        path=out_path,
        size=out_path.stat().st_size,
        seconds=round(time.perf_counter() - started, 3),
        tensorrt=api.version,
        options=options,
        scratch=_scratch(messages),
        warnings=tuple(message.text for message in messages if message.severity == "WARNING"),
        log=_lines(messages, onnx_path),
    )
    _write_sidecar(result, onnx_path, target, compute_capability)
    return result


def _serialize(
    api: Api, onnx_path: Path, compute_capability: str | None, partial: Path, messages: list[Message], tree: PhaseTree
) -> dict[str, Any]:
    """Parse and build into `partial`; return the options that were set."""
    logger = api.logger(messages)
    builder = api.builder(logger)
    network = api.network(builder)
    parse_graph(api, network, logger, onnx_path)
    config = api.config(builder, compute_capability, tree)
    with partial.open("wb") as file:
        built = api.serialize(builder, network, config, file)
    if tree.error is not None:
        raise tree.error
    if not built:
        raise EngineError(f"{api.flavour} {api.version} could not build {onnx_path.name}: {_errors(messages)}")
    return {
        "strongly_typed": True,
        "tf32": hasattr(api.module.BuilderFlag, "TF32") and config.get_flag(api.module.BuilderFlag.TF32),
        "compute_capability": compute_capability or gpu_capability() or "portable",
        "optimization_level": config.builder_optimization_level,
    }


def _errors(messages: list[Message]) -> str:
    errors = [" ".join(message.text.split()) for message in messages if message.severity.endswith("ERROR")]
    return "; ".join(errors) or "it gave no reason, see the log."


def _scratch(messages: list[Message]) -> int | None:
    sizes = [int(match.group(1)) for message in messages if (match := _SCRATCH.search(message.text))]
    return max(sizes, default=None)


def _lines(messages: list[Message], onnx_path: Path) -> tuple[str, ...]:
    """Log lines with the graph named by file only: a bundle travels, the paths of the machine that built it do not."""
    folder = f"{onnx_path.parent}/"
    return tuple(f"[{message.severity}] {message.text.replace(folder, '')}" for message in messages)


def _write_sidecar(result: BuildResult, onnx_path: Path, target: TargetSpec, compute_capability: str | None) -> None:
    if result.path is None:
        return
    sidecar = {
        "engine": result.path.name,
        "sha256": sha256_of(result.path),
        "bytes": result.size,
        "graph": onnx_path.name,
        "graph_sha256": sha256_of(onnx_path),
        "target": target.name,
        "compute_capability": compute_capability or result.options["compute_capability"],
        "tensorrt": f"{target.flavour} {result.tensorrt}",
        "platform": f"{platform.system()} {platform.machine()}",
        "options": result.options,
        "scratch_bytes": result.scratch,
        "seconds": result.seconds,
        "warnings": list(result.warnings),
    }
    text = json.dumps(sidecar, indent=2, sort_keys=True) + "\n"
    result.path.with_name(result.path.name + ".json").write_text(text, encoding="utf-8")
