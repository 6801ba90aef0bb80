"""The child that builds: from a graph to an engine's bytes, with the TensorRT that only this process loads."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path
from typing import Any

from sttm_export.contracts.target import TargetSpec
from sttm_export.engines.api import Api, BuildOptions, EngineError, Message, UnavailableError, load_api
from sttm_export.engines.children import Row, Tell, serve
from sttm_export.engines.driver import gpu_capability
from sttm_export.engines.memory import build_memory, memory_reason
from sttm_export.engines.progress import PhaseTree

KIT = "BUNDLE/device/build.sh"
"""Command of the device kit, as sentences name it; who knows the bundle puts its path in."""


def build(request: Row, tell: Tell) -> Row:
    """Build one engine.

    Args:
        request: `target`, a row of the table; `graph`, without which TensorRT is looked for and nothing built;
            `engine`, the file that gets its bytes; `timings`, the file of kernel times; `options`; `capability`, to be
            set, for TensorRT-RTX; `row_counts`, see `GraphSpec`.
        tell: gets `phase` and `fraction`.

    Returns:
        `tensorrt`, the version; `options`, as TensorRT took them; `timings`, see `BuildResult`; `log`, pairs of
        severity and text.

    Raises:
        UnavailableError: there is no TensorRT that builds for the target here.
        EngineError: TensorRT refused the graph or could not build it.
        OSError: a file could not be written.
    """
    target = TargetSpec.from_json(request["target"])
    api, messages = fitting_api(target), list[Message]()
    if "graph" not in request:
        return {}
    options, graph = BuildOptions(**request["options"]), Path(request["graph"])
    logger = api.logger(messages)
    builder = api.builder(logger)
    network = api.network(builder)
    tell(phase="reading the graph", fraction=0.0)
    api.parse(network, logger, graph)
    tree = PhaseTree(lambda phase, fraction: tell(phase=phase, fraction=fraction))
    config = api.config(builder, request["capability"], options, tree)
    api.add_profiles(builder, network, config, request["row_counts"])
    # TensorRT-RTX times no kernels while it builds; they are compiled on the GPU that runs them.
    cache = None if target.builds_without_gpu else Path(request["timings"])
    kept = cache is not None and _attach(config, cache)
    free = build_memory(api.flavour)
    with Path(request["engine"]).open("wb") as file:
        built = api.serialize(builder, network, config, file)
    if not built:
        raise EngineError(f"{api.flavour} {api.version} could not build {graph.name}: {_why(messages, options, free)}.")
    if cache is not None:
        cache.write_bytes(memoryview(config.get_timing_cache().serialize()))
    return {
        "tensorrt": api.version,
        "options": api.read_options(config),
        "timings": "" if cache is None else "kept" if kept else "new",
        "log": [dataclasses.astuple(message) for message in messages],
    }


def fitting_api(target: TargetSpec) -> Api:
    """Return the TensorRT that builds for a target, on a machine that `check_place` has found good.

    Raises:
        UnavailableError: there is none, or of another version; the sentence says what to do.
    """
    api = load_api(target.flavour)
    if not target.builds_without_gpu and not target.has_tensorrt(api.version):
        raise UnavailableError(
            f"{target.name} has TensorRT {target.tensorrt_version}, here is {api.version}, and an engine runs only "
            "with the version that built it; build on a machine with that version, or choose the target that has yours."
        )
    return api


def check_place(target: TargetSpec) -> str | None:
    """Refuse a machine that lacks the GPU or is not the device that a target is built on.

    Returns:
        The compute capability of the GPU that engines are built for; None where that is not the one that is present.

    Raises:
        UnavailableError: names the two ways on, the device kit and TensorRT-RTX.
    """
    if target.builds_without_gpu:
        return None
    capability = gpu_capability()
    if capability in target.compute_capabilities and platform.machine() == target.machine:
        return capability
    need = " or ".join(target.compute_capabilities)
    here = f"here is {capability} on {platform.machine()}" if capability else "this machine has no NVIDIA GPU"
    place = "on the device" if target.built == "device" else "on a host with such a GPU"
    raise UnavailableError(
        f"TensorRT {target.tensorrt_version} builds for {target.name} only on its own GPU ({need}), and {here}; build "
        f"{place} with the bundle's device kit (bash {KIT}), or use --target rtx here."
    )


def _attach(config: Any, cache: Path) -> bool:
    """Give a build the kernel times of an earlier one; return whether TensorRT takes them.

    It compares version and GPU itself: times of another machine, of the JetPack before an update or damaged ones are
    not taken, and measured anew.
    """
    content = cache.read_bytes() if cache.is_file() else b""
    if content:
        made = config.create_timing_cache(content)
        if made is not None and config.set_timing_cache(made, False):
            return True
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return False


def _why(messages: list[Message], options: BuildOptions, free: int | None) -> str:
    errors = [" ".join(message.text.split()) for message in messages if message.severity.endswith("ERROR")]
    # Failed allocations are warnings in TensorRT's log, only what follows from them is an error.
    reason = memory_reason([message.text for message in messages], options.workspace_mib, free)
    return reason or "; ".join(errors) or "it gave no reason, see the log"


if __name__ == "__main__":
    serve(build)
