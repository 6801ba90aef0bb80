"""From graph to engine bytes with a loaded TensorRT: parse, configure, build; no files but graph, engine and cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sttm_export.engines import timing_cache
from sttm_export.engines.api import Api, Message, parse_graph
from sttm_export.engines.configure import read_options
from sttm_export.engines.faults import EngineError
from sttm_export.engines.interrupts import held_interrupts
from sttm_export.engines.logs import memory_reason
from sttm_export.engines.memory import build_memory
from sttm_export.engines.options import BuildOptions
from sttm_export.engines.progress import PhaseTree


@dataclass(frozen=True)
class Job:
    """One engine to build.

    Attributes:
        api: the TensorRT that builds.
        onnx_path: the graph.
        compute_capability: to set, for TensorRT-RTX; None sets none.
        here: what the engine is for, by name: a compute capability or `portable`.
        options: already checked.
    """

    api: Api
    onnx_path: Path
    compute_capability: str | None
    here: str
    options: BuildOptions
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Serialized:
    """What is known after a build, the engine itself apart.

    Attributes:
        options: as TensorRT took them.
        used: what became of the times that were there; see `BuildResult.timings`.
        timings: content of the cache after the build; empty without one.
    """

    options: dict[str, Any]
    used: Literal["", "new", "kept"] = ""
    timings: bytes = b""


def serialize_engine(job: Job, file: BinaryIO, messages: list[Message], tree: PhaseTree) -> Serialized:
    """Build into an open file, in this process.

    Args:
        job: what to build.
        file: takes the engine's bytes.
        messages: takes TensorRT's log.
        tree: takes TensorRT's progress; an error in it stops the build and is raised from here.

    Raises:
        EngineError: TensorRT refused the graph or could not build it.
        OSError: the file could not be written.
    """
    with held_interrupts(tree):
        return _serialize(job, file, messages, tree)


def _serialize(job: Job, file: BinaryIO, messages: list[Message], tree: PhaseTree) -> Serialized:
    api, cache = job.api, job.timing_cache
    logger = api.logger(messages)
    builder = api.builder(logger)
    network = api.network(builder)
    tree.tell("reading the graph", 0.0)
    parse_graph(api, network, logger, job.onnx_path)
    api.pin_formats(network)
    config = api.config(builder, job.compute_capability, tree, job.options)
    kept = cache is not None and timing_cache.attach(config, cache)
    free = build_memory(api.flavour)
    built = tree.error is None and api.serialize(builder, network, config, file)
    if tree.error is not None:
        raise tree.error
    if not built:
        raise _failure(job, messages, free)
    options = read_options(api.module, config)
    if cache is None:
        return Serialized(options)
    return Serialized(options, "kept" if kept else "new", timing_cache.detach(config))


def _failure(job: Job, messages: list[Message], free: int | None) -> EngineError:
    errors = [" ".join(message.text.split()) for message in messages if message.severity.endswith("ERROR")]
    # Failed allocations are warnings in TensorRT's log, only what follows from them is an error.
    reason = memory_reason([message.text for message in messages], job.options.workspace_mib, free)
    why = reason or "; ".join(errors) or "it gave no reason, see the log"
    return EngineError(f"{job.api.flavour} {job.api.version} could not build {job.onnx_path.name}: {why}.")
