"""One graph to one engine; provenance goes to a sidecar, the engine's bytes stay as TensorRT wrote them for trtexec."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from sttm_export.engines import timing_cache
from sttm_export.engines.api import Api, Message, load_api, parse_graph
from sttm_export.engines.configure import read_options
from sttm_export.engines.faults import EngineError, UnavailableError
from sttm_export.engines.gpu import gpu_capability
from sttm_export.engines.interrupts import held_interrupts
from sttm_export.engines.logs import free_memory, memory_reason, portable_lines, scratch_bytes
from sttm_export.engines.options import BuildOptions, check_options
from sttm_export.engines.progress import OnProgress, PhaseTree
from sttm_export.engines.records import BuildResult, Tool
from sttm_export.engines.sidecar import write_sidecar
from sttm_export.engines.trtexec import find_trtexec, trtexec_command, trtexec_version
from sttm_export.engines.trtexec_build import build_with_trtexec
from sttm_export.errors import UserError
from sttm_export.spec.target import TargetSpec

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
    tool: Tool = "api",
) -> BuildResult:
    """Build one engine with TensorRT's Python API in this process, or with trtexec.

    The engine is written under a temporary name and renamed when whole, with `<out_path>.json` beside it.

    Args:
        onnx_path: the graph; its external data is read from beside it.
        target: what to build for.
        compute_capability: such as `sm86`, for TensorRT-RTX; None there means portable over the RTX generations. Full
            TensorRT builds for the GPU that is present.
        out_path: the engine.
        options: workspace, timing cache and the like.
        on_progress: called with (phase, fraction in [0, 1]); what it raises stops the build and comes back from here.
        tool: `api` or `trtexec`; TensorRT-RTX has the first only.

    Returns:
        The result; `skipped` with a reason where this machine cannot build for the target.

    Raises:
        UserError: the graph is missing, the target does not have the compute capability or an option, or the timing
            cache is not one for this machine.
        EngineError: TensorRT refused the graph or could not build it.
    """
    if not onnx_path.is_file():
        raise UserError(f"{onnx_path} is missing; give the path of an exported graph.")
    check_capability(target, compute_capability)
    check_options(options, target)
    try:
        if tool == "trtexec":
            program, version = available_trtexec(target)
            gpu = str(gpu_capability())
            return build_with_trtexec(program, version, gpu, onnx_path, target, out_path, options, on_progress)
        api = available_api(target)
    except UnavailableError as reason:
        return BuildResult("skipped", reason=str(reason))
    return _Build(api, onnx_path, target, compute_capability, options, on_progress).run(out_path)


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


def available_trtexec(target: TargetSpec) -> tuple[str, str]:
    """Return path and TensorRT version of the trtexec that builds for a target on this machine.

    Raises:
        UserError: the target is built without trtexec.
        UnavailableError: there is none; the sentence says why and where it works.
    """
    trtexec_command(target, Path(), Path())
    check_place(target)
    program = find_trtexec()
    version = trtexec_version(program)
    check_version(target, version)
    return program, version


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
    found = tuple(int(part) for part in version.split(".")[: len(target.tensorrt)])
    if found != target.tensorrt:
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


class _Build:
    """One build; holds what its steps share."""

    def __init__(
        self,
        api: Api,
        onnx_path: Path,
        target: TargetSpec,
        compute_capability: str | None,
        options: BuildOptions,
        on_progress: OnProgress | None,
    ) -> None:
        self.api, self.onnx_path, self.target, self.asked = api, onnx_path, target, options
        self.compute_capability = compute_capability
        present = None if target.builds_without_gpu else gpu_capability()
        self.here = compute_capability or present or "portable"
        self.messages: list[Message] = []
        self.tree = PhaseTree(on_progress)

    def run(self, out_path: Path) -> BuildResult:
        """Build under a temporary name, rename, and write sidecar and timing cache."""
        out_path.parent.mkdir(parents=True, exist_ok=True)
        partial = out_path.with_name(out_path.name + ".partial")
        started = time.perf_counter()
        try:
            options, use, timings = self._serialize(partial)
            partial.replace(out_path)
        finally:
            partial.unlink(missing_ok=True)
        lines = [f"[{message.severity}] {message.text}" for message in self.messages]
        log = portable_lines(lines, [self.onnx_path.parent])
        result = BuildResult(
            status="built",
            path=out_path,
            size=out_path.stat().st_size,
            seconds=round(time.perf_counter() - started, 3),
            tensorrt=self.api.version,
            options=options | {"compute_capability": self.here},
            scratch=scratch_bytes(lines),
            warnings=tuple(line.split("] ", 1)[1] for line in log if line.startswith("[WARNING] ")),
            log=log,
            timing_cache=use,
        )
        write_sidecar(result, out_path, self.onnx_path, self.target)
        if self.asked.timing_cache is not None and not self.asked.frozen_timing_cache:
            timing_cache.write_cache(self.asked.timing_cache, timings, self.api.version, self.here)
        return result

    def _serialize(self, partial: Path) -> tuple[dict[str, Any], timing_cache.CacheUse | None, bytes]:
        """Parse and build into `partial`; return the options that were set, and the timings where they are kept."""
        logger = self.api.logger(self.messages)
        builder = self.api.builder(logger)
        network = self.api.network(builder)
        parse_graph(self.api, network, logger, self.onnx_path)
        config = self.api.config(builder, self.compute_capability, self.tree, self.asked)
        cache, frozen = self.asked.timing_cache, self.asked.frozen_timing_cache
        before = b""
        if cache is not None:
            before = timing_cache.read_cache(cache, self.api.version, self.here, frozen=frozen)
            timing_cache.attach(config, self.api.module, before, cache)
        free = free_memory()
        with partial.open("wb") as file, held_interrupts(self.tree):
            built = self.api.serialize(builder, network, config, file)
        if self.tree.error is not None:
            raise self.tree.error
        if not built:
            raise self._failure(free)
        if cache is None:
            return read_options(self.api.module, config), None, b""
        after = timing_cache.detach(config)
        use = timing_cache.use_of(cache, before, after, frozen=frozen)
        return read_options(self.api.module, config), use, after

    def _failure(self, free: int | None) -> EngineError:
        errors = [" ".join(m.text.split()) for m in self.messages if m.severity.endswith("ERROR")]
        # Failed allocations are warnings in TensorRT's log, only what follows from them is an error.
        everything = [message.text for message in self.messages]
        reason = memory_reason(everything, self.asked.workspace_mib, free)
        why = reason or "; ".join(errors) or "it gave no reason, see the log"
        return EngineError(f"{self.api.flavour} {self.api.version} could not build {self.onnx_path.name}: {why}.")
