"""One surface over `tensorrt` and `tensorrt_rtx_bindings`: one API, two names, and the few places where it differs.

Everything else in this room is written against `Api` and runs with either.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sttm_export.contracts.graph import ROWS
from sttm_export.engines.progress import PhaseTree
from sttm_export.errors import UserError

Flavour = Literal["tensorrt", "tensorrt-rtx"]
# `tensorrt_rtx` is the name in NVIDIA's own package; the wheels on PyPI carry the bindings under the longer one.
MODULES: dict[str, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx_bindings", "tensorrt_rtx"),
}
INSTALL = {
    "tensorrt": "TensorRT is not installed; JetPack brings it, on a GPU host run: pip install 'sttm-export[gpu]'.",
    "tensorrt-rtx": "TensorRT-RTX is not installed; on an x86-64 machine run: pip install 'sttm-export[rtx]'.",
}
MIB = 1 << 20


class UnavailableError(UserError):
    """An engine cannot be built here: TensorRT or a GPU is missing. The message says what to do instead."""


class EngineError(Exception):
    """TensorRT refused a graph or could not build it; names the node and the operator where TensorRT does."""


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built. Types and TF32 are no options: strongly typed, without TF32, always."""

    # Most scratch memory a kernel may use, in MiB; None takes what a build leaves where CPU and GPU share their memory,
    # elsewhere TensorRT's default, all of the GPU's.
    workspace_mib: int | None = None
    # 0 to 5; None leaves TensorRT's default, 3.
    optimization_level: int | None = None


@dataclass(frozen=True)
class Message:
    """One line of TensorRT's log; severity is `INTERNAL_ERROR`, `ERROR`, `WARNING` or `INFO`."""

    severity: str
    text: str


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of a block.

    TensorRT-RTX 1.7 logs while it holds a lock that the destructor of a builder takes as well. A collection that begins
    in such a callback and finds an earlier builder waits for that lock for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class Api:
    """A loaded TensorRT: which of the two, and its Python bindings."""

    flavour: Flavour
    module: Any

    @property
    def version(self) -> str:
        """Full version such as `10.3.0.30`."""
        return str(self.module.__version__)

    def logger(self, messages: list[Message]) -> Any:
        """Return an `ILogger` that appends every message of level info and above."""
        base, verbose = self.module.ILogger, self.module.ILogger.VERBOSE

        class Collector(base):  # type: ignore[misc, valid-type] # known only when TensorRT is loaded
            def __init__(self) -> None:
                # pybind11 classes refuse super().__init__.
                base.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity != verbose:
                    with without_collection():
                        messages.append(Message(severity.name, text))

        return Collector()

    def builder(self, logger: Any) -> Any:
        """Create a builder; without a usable GPU full TensorRT fails here."""
        try:
            with without_collection():
                return self.module.Builder(logger)
        except TypeError as error:
            raise EngineError(f"TensorRT {self.version} could not start: {error}") from error

    def network(self, builder: Any) -> Any:
        """Create an empty strongly typed network: each tensor keeps the type the graph gives it.

        TensorRT 10 needs the flag; TensorRT 11 and TensorRT-RTX know no other networks, and 11 may drop the flag.
        """
        flag = getattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def parse(self, network: Any, logger: Any, onnx_path: Path) -> None:
        """Read a graph into a network, by path, so that TensorRT finds the weights beside it.

        Inputs and outputs are row-major only, as sessions fill and read them; TensorRT could pick other layouts.

        Raises:
            EngineError: the parser refused it; every one of its errors in one message, with node and operator.
        """
        parser = self.module.OnnxParser(network, logger)
        if not parser.parse_from_file(str(onnx_path)):
            errors = [parser.get_error(number) for number in range(parser.num_errors)]
            described = "; ".join(_describe(error) for error in errors) or "no reason given"
            raise EngineError(f"The parser of {self.flavour} {self.version} refuses {onnx_path.name}: {described}.")
        ends = [network.get_input(number) for number in range(network.num_inputs)]
        for tensor in [*ends, *(network.get_output(number) for number in range(network.num_outputs))]:
            tensor.allowed_formats = 1 << int(self.module.TensorFormat.LINEAR)

    def config(self, builder: Any, compute_capability: str | None, options: BuildOptions, tree: PhaseTree) -> Any:
        """Create a build configuration.

        TF32 is cleared. It is on by default and would round the operands of float32 products to 10 bits of mantissa,
        and a similarity that is rounded so falls on the other side of its threshold.

        Args:
            builder: a `Builder`.
            compute_capability: such as `sm86`; only TensorRT-RTX can build for another GPU than the one present.
            options: already checked.
            tree: told of the progress, where the bindings have `IProgressMonitor` (TensorRT 9 and later).

        Raises:
            EngineError: these bindings do not know the compute capability.
        """
        config = builder.create_builder_config()
        if hasattr(self.module.BuilderFlag, "TF32"):
            config.clear_flag(self.module.BuilderFlag.TF32)
        if compute_capability is not None and self.flavour == "tensorrt-rtx":
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._capability(compute_capability), 0)
        if hasattr(config, "progress_monitor"):
            config.progress_monitor = self._monitor(tree)
        if hasattr(self.module, "ProfilingVerbosity"):
            # So that the inspector names kernels (`LoadedEngine.layers`).
            config.profiling_verbosity = self.module.ProfilingVerbosity.DETAILED
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(self.module.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        return config

    def add_profiles(self, builder: Any, network: Any, config: Any, row_counts: Sequence[int]) -> None:
        """Add a profile for each number of rows that a graph is called with: kernels are chosen for just that."""
        inputs = [network.get_input(number) for number in range(network.num_inputs)]
        for rows in row_counts:
            profile = builder.create_optimization_profile()
            for tensor in inputs:
                shape = tuple(rows if side == ROWS else side for side in tensor.shape)
                profile.set_shape(tensor.name, shape, shape, shape)
            config.add_optimization_profile(profile)

    def read_options(self, config: Any) -> dict[str, Any]:
        """Return what a configuration holds: what TensorRT took, not what it was asked."""
        tf32 = getattr(self.module.BuilderFlag, "TF32", None)
        return {
            "strongly_typed": True,
            "tf32": tf32 is not None and bool(config.get_flag(tf32)),
            "optimization_level": config.builder_optimization_level,
            "workspace_mib": config.get_memory_pool_limit(self.module.MemoryPoolType.WORKSPACE) // MIB,
        }

    def serialize(self, builder: Any, network: Any, config: Any, file: BinaryIO) -> bool:
        """Build and write the engine exactly as TensorRT gives it.

        Streaming saves one copy of the engine in memory (measured: 9.5 against 10.7 GiB for a 3.5 GiB graph); bindings
        before TensorRT 10.13 do not have it.

        Returns:
            Whether an engine was built.

        Raises:
            OSError: the file could not be written, by a full disk for one.
        """
        if hasattr(builder, "build_serialized_network_to_stream"):
            writer = self._writer(file)
            built = bool(builder.build_serialized_network_to_stream(network, config, writer))
            if writer.error is not None:
                raise writer.error
            return built
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            return False
        file.write(memoryview(plan))
        return True

    def _capability(self, name: str) -> Any:
        known = self.module.ComputeCapability
        if not hasattr(known, name.upper()):
            raise EngineError(f"TensorRT-RTX {self.version} does not know the compute capability {name}.")
        return getattr(known, name.upper())

    def _monitor(self, tree: PhaseTree) -> Any:
        base = self.module.IProgressMonitor

        class Monitor(base):  # type: ignore[misc, valid-type] # see Collector
            def __init__(self) -> None:
                base.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                tree.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                tree.step(phase_name, step)
                return True

            def phase_finish(self, phase_name: str) -> None:
                tree.finish(phase_name)

        return Monitor()

    def _writer(self, file: BinaryIO) -> Any:
        base = self.module.IStreamWriter

        class Writer(base):  # type: ignore[misc, valid-type] # see Collector
            def __init__(self) -> None:
                base.__init__(self)
                self.error: OSError | None = None

            def write(self, data: bytes) -> int:
                # An exception cannot pass through TensorRT, which would print it; it waits for `serialize`.
                try:
                    return 0 if self.error else file.write(data)
                except OSError as error:
                    self.error = error
                    return 0

        return Writer()


def load_api(flavour: Flavour) -> Api:
    """Import TensorRT or TensorRT-RTX.

    Raises:
        UnavailableError: it is not installed; one sentence says how to install it.
    """
    for name in MODULES[flavour]:
        if importlib.util.find_spec(name) is not None:
            return Api(flavour, _import(name, flavour))
    raise UnavailableError(INSTALL[flavour])


def _import(name: str, flavour: Flavour) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise UnavailableError(f"{name} is installed but does not load ({error}). {INSTALL[flavour]}") from error


def _describe(error: Any) -> str:
    # Bindings before TensorRT 9 have neither the node's name nor its operator.
    name, operator = (getattr(error, field, str)() for field in ("node_name", "node_operator"))
    where = f"node '{name}' ({operator})" if name or operator else f"node {error.node()}"
    return f"{where}: {' '.join(error.desc().split())}"
