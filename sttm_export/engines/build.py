"""One graph to one engine; provenance goes to a sidecar, the engine's bytes stay as TensorRT wrote them."""

from __future__ import annotations

import platform
import time
from pathlib import Path

from sttm_export.bundle.records import BuildResult, sha256_of
from sttm_export.bundle.sidecar import write_sidecar
from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.api import Api, Message, load_api
from sttm_export.engines.faults import UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.engines.isolated import serialize_isolated
from sttm_export.engines.logs import portable_lines, scratch_bytes
from sttm_export.engines.memory import with_workspace
from sttm_export.engines.options import BuildOptions, check_options
from sttm_export.engines.progress import OnProgress, PhaseTree
from sttm_export.engines.serialize import Job, serialize_engine
from sttm_export.errors import UserError

DEFAULTS = BuildOptions()
KIT = "BUNDLE/device/build.sh"
"""Command of the device kit, as sentences name it; who knows the bundle puts its path in."""


def build_engine(
    onnx_path: Path,
    target: TargetSpec,
    compute_capability: str | None,
    out_path: Path,
    *,
    options: BuildOptions = DEFAULTS,
    on_progress: OnProgress | None = None,
    isolated: bool = False,
    timing_cache: Path | None = None,
) -> BuildResult:
    """Build one engine.

    The engine is written under a temporary name and renamed when whole, with `<out_path>.json` beside it.

    Args:
        onnx_path: the graph; its external data is read from beside it.
        target: what to build for.
        compute_capability: such as `sm86`, for TensorRT-RTX; None there means portable over the RTX generations. Full
            TensorRT builds for the GPU that is present.
        out_path: the engine.
        options: workspace and optimization level.
        on_progress: called with (phase, fraction in [0, 1]); what it raises stops the build and comes back from here.
        isolated: build in a process of its own, without a timing cache.
        timing_cache: file of kernel times that full TensorRT reads and writes; None keeps none.

    Returns:
        The result; `skipped` with a reason where this machine cannot build for the target.

    Raises:
        UserError: the graph is missing, or the target does not have the compute capability or an option.
        EngineError: TensorRT refused the graph or could not build it.
    """
    if not onnx_path.is_file():
        raise UserError(f"{onnx_path} is missing; give the path of an exported graph.")
    check_capability(target, compute_capability)
    check_options(options)
    options = with_workspace(options, target, onnx_path)
    try:
        api = available_api(target)
    except UnavailableError as reason:
        return BuildResult("skipped", reason=str(reason))
    present = None if target.builds_without_gpu else gpu_capability()
    here = compute_capability or present or "portable"
    job = Job(api, onnx_path, compute_capability, here, options, None if target.builds_without_gpu else timing_cache)
    return _build(job, target, out_path, on_progress, isolated=isolated)


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
    check_place(target)
    api = load_api(target.flavour)
    if not target.builds_without_gpu:
        check_version(target, api.version)
    return api


def check_place(target: TargetSpec) -> None:
    """Refuse a machine that lacks the GPU or is not the device that a target is built on.

    Raises:
        UnavailableError: names the two ways on, the device kit and TensorRT-RTX.
    """
    if target.builds_without_gpu:
        return
    capability = gpu_capability()
    if capability not in target.compute_capabilities or platform.machine() != target.machine:
        raise UnavailableError(_not_here(target, capability))


def check_version(target: TargetSpec, version: str) -> None:
    """Refuse a TensorRT whose engines the target cannot load.

    Raises:
        UnavailableError: names both versions.
    """
    if not target.has_tensorrt(version):
        raise UnavailableError(
            f"{target.name} has TensorRT {target.tensorrt_version}, here is {version}, and an engine runs only with "
            "the version that built it; build on a machine with that version, or choose the target that has yours."
        )


def _not_here(target: TargetSpec, capability: str | None) -> str:
    need = " or ".join(target.compute_capabilities)
    here = f"here is {capability} on {platform.machine()}" if capability else "this machine has no NVIDIA GPU"
    place = "on the device" if target.built == "device" else "on a host with such a GPU"
    return (
        f"TensorRT {target.tensorrt_version} builds for {target.name} only on its own GPU ({need}), and {here}; build "
        f"{place} with the bundle's device kit (bash {KIT}), or use --target rtx here."
    )


def _build(
    job: Job, target: TargetSpec, out_path: Path, on_progress: OnProgress | None, *, isolated: bool
) -> BuildResult:
    """Build under a temporary name, rename, and write sidecar and timing cache."""
    out_path.parent.mkdir(parents=True, exist_ok=True)
    partial = out_path.with_name(out_path.name + ".partial")
    messages: list[Message] = []
    started = time.perf_counter()
    serialize = serialize_isolated if isolated else serialize_engine
    try:
        with partial.open("wb") as file:
            made = serialize(job, file, messages, PhaseTree(on_progress))
        partial.replace(out_path)
    finally:
        partial.unlink(missing_ok=True)
    log = portable_lines((f"[{message.severity}] {message.text}" for message in messages), [job.onnx_path.parent])
    result = BuildResult(
        status="built",
        path=out_path,
        size=out_path.stat().st_size,
        sha256=sha256_of(out_path),
        seconds=round(time.perf_counter() - started, 3),
        tensorrt=job.api.version,
        options=made.options | {"compute_capability": job.here},
        scratch=scratch_bytes(log),
        warnings=tuple(line.split("] ", 1)[1] for line in log if line.startswith("[WARNING] ")),
        log=log,
        timings=made.used,
    )
    write_sidecar(result, out_path, job.onnx_path, target)
    if job.timing_cache is not None:
        job.timing_cache.write_bytes(made.timings)
    return result
