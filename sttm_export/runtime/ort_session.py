"""A graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sttm_export.contracts.graph import GraphSpec
from sttm_export.errors import UserError, out_of_memory
from sttm_export.runtime.providers import CPU, Provider, check_taken, find_provider, prepare
from sttm_export.runtime.session import Array, Arrays, check_inputs, check_outputs

# Nothing is logged: warnings are about its own optimiser, and an error comes as an exception with the same words.
_QUIET = 4


class OrtSession:
    """ONNX Runtime behind the `Session` interface.

    Args:
        path: the .onnx file; external weights are found beside it.
        graph: the declaration to hold it to.
        threads: threads within an operator; 0 leaves the choice to ONNX Runtime.
        provider: what runs it: `cpu`, `cuda`, `tensorrt`, or the full name of an execution provider.
        low_memory: return memory after every run instead of keeping an arena.

    Raises:
        UserError: missing or damaged file, a provider that is unknown or cannot be used here, or inputs and outputs
            other than declared.
    """

    def __init__(
        self,
        path: str | Path,
        graph: GraphSpec,
        *,
        threads: int = 0,
        provider: str = CPU,
        low_memory: bool = False,
    ) -> None:
        self._graph = graph
        self._path = Path(path)
        self._session = _load(self._path, _options(threads, low_memory), provider)
        self._check_names()

    @property
    def graph(self) -> GraphSpec:
        """The declaration."""
        return self._graph

    @property
    def backend(self) -> str:
        """Provider that was taken, and the version of ONNX Runtime."""
        import onnxruntime as ort

        return f"onnxruntime {ort.__version__} {self._session.get_providers()[0]}"

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run once.

        Raises:
            UserError: inputs other than declared, or ONNX Runtime failed (out of memory, unsupported operator).
        """
        check_inputs(self._graph, inputs)
        names = [tensor.name for tensor in self._graph.outputs]
        try:
            values = self._session.run(names, dict(inputs))
        except Exception as error:  # ONNX Runtime has a family of exceptions without a public base
            _refuse_memory(error, f"ran {self._path.name}")
            raise UserError(f"ONNX Runtime could not run {self._path.name}: {_first_line(error)}.") from error
        outputs = dict(zip(names, values, strict=True))
        check_outputs(self._graph, outputs)
        return outputs

    def _check_names(self) -> None:
        for side, declared, found in (
            ("inputs", self._graph.inputs, self._session.get_inputs()),
            ("outputs", self._graph.outputs, self._session.get_outputs()),
        ):
            names, have = {tensor.name for tensor in declared}, {value.name for value in found}
            if names != have:
                raise UserError(
                    f"{self._path} is not the graph '{self._graph.name}': its {side} are {', '.join(sorted(have))}, "
                    f"expected {', '.join(sorted(names))}; export the bundle again."
                )


def check_provider(name: str) -> None:
    """Refuse, before any work, a provider that this ONNX Runtime does not have.

    Raises:
        UserError: it has none of this name; says what to install.
    """
    import onnxruntime as ort

    find_provider(name, ort.get_available_providers())


def _options(threads: int, low_memory: bool) -> Any:
    import onnxruntime as ort

    if threads < 0:
        raise UserError(f"{threads} threads are not possible; give 0 for automatic, or a number from 1.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _QUIET
    if low_memory:
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
    return options


def _load(path: Path, options: Any, name: str) -> Any:
    import onnxruntime as ort

    if not path.is_file():
        raise UserError(f"There is no graph at {path}; export the bundle, or check the path.")
    provider = find_provider(name, ort.get_available_providers())
    prepare(provider, ort)
    session = _create(ort, path, options, provider)
    check_taken(provider, session, ort)
    return session


def _create(ort: Any, path: Path, options: Any, provider: Provider) -> Any:
    try:
        # Without the fallback of the Python layer, which changes providers in the middle of a run.
        return ort.InferenceSession(str(path), options, providers=list(provider.chain), enable_fallback=0)
    except Exception as error:  # no public base, as above
        _refuse_memory(error, f"loaded {path}")
        if provider.name != CPU:
            raise UserError(
                f"ONNX Runtime cannot load {path} with {provider.name} ({_first_line(error)}); see whether "
                "--provider cpu can, and `sttm-export doctor` for what this machine has."
            ) from error
        raise UserError(
            f"ONNX Runtime cannot load {path} ({_first_line(error)}): the file or the weights beside it are damaged or "
            "incomplete; export the bundle again."
        ) from error


def _refuse_memory(error: Exception, what: str) -> None:
    if out_of_memory(error):
        raise UserError(
            f"Memory ran out while ONNX Runtime {what}; close other programs, or use a machine with more."
        ) from error


def _first_line(error: Exception) -> str:
    """ONNX Runtime puts its source path and a stack behind the first line; neither helps a user."""
    return str(error).strip().split("\n", 1)[0].rstrip(".")[:300]
