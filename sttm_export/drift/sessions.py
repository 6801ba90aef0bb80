"""What runs the parts of a graph: ONNX Runtime, or engines that are built on this machine for each part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sttm_export.bundle.opened import Bundle
from sttm_export.contracts.graph import GraphSpec
from sttm_export.contracts.target import TargetSpec, find_target
from sttm_export.engines.api import UnavailableError
from sttm_export.engines.build import EngineRequest, build_engine, check_available
from sttm_export.engines.driver import gpu_capability
from sttm_export.errors import UserError
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.providers import CPU
from sttm_export.runtime.session import Session
from sttm_export.runtime.trt_session import TrtSession

Factory = Callable[[Path, GraphSpec], Session]


def ort_factory(provider: str = CPU) -> Factory:
    """Run parts with ONNX Runtime."""
    return lambda path, graph: OrtSession(path, graph, provider=provider, low_memory=True)


def engine_factory(bundle: Bundle, name: str | None) -> Factory:
    """Build each part into an engine on this machine and run that.

    Args:
        bundle: its targets are looked through for one whose engines are built and run here.
        name: a target, instead.

    Raises:
        UserError: no GPU, or no target of these has a TensorRT here that builds for it.
    """
    capability = gpu_capability()
    if capability is None:
        raise UserError("--bisect --engine builds and runs engines, and there is no GPU here; leave --engine out.")
    target = _target_here([name] if name else bundle.manifest.targets, capability)

    def make(path: Path, graph: GraphSpec) -> Session:
        engine = path.with_suffix(".engine")
        request = EngineRequest(path, target, capability if target.builds_without_gpu else None)
        result = build_engine(request, engine)
        if result.status != "built":
            raise UserError(f"A part of the graph could not be built for {target.name}: {result.reason}")
        return TrtSession(engine, graph)

    return make


def _target_here(names: Sequence[str], capability: str) -> TargetSpec:
    reasons = []
    for name in names:
        target = find_target(name)
        if capability not in target.compute_capabilities:
            reasons.append(f"{name}: it is not for {capability}")
            continue
        try:
            check_available(target)
        except UnavailableError as error:
            reasons.append(f"{name}: {str(error).rstrip('.')}")
        else:
            return target
    raise UserError(f"No engine can be built and run here ({'; '.join(reasons)}); give another --target.")
