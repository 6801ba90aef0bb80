"""A graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sttm_export.contracts.graph import GraphSpec
from sttm_export.errors import UserError, out_of_memory
from sttm_export.runtime.providers import CPU, ON_GPU, Provider, check_taken, find_provider, prepare
from sttm_export.runtime.session import Array, Arrays, check_fed, check_tensors

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
        stream: a CUDA stream in which a provider of a GPU queues its work; None lets it make one.

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
        stream: int | None = None,
    ) -> None:
        self._graph = graph
        self._path = Path(path)
        options = _options(threads, low_memory)
        if graph.int4:
            # Unpacked once, as they are loaded: at each call it takes thirty times as long for one row, and without a
            # cast before the product its other factor is rounded to eight bits.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = _load(self._path, options, provider, stream)
        self._check_names()
        self._state: dict[str, Any] = {}
        self.reset()

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
        return self.run_placed(inputs, {})

    def run_placed(self, inputs: Mapping[str, Array], places: Mapping[str, int]) -> Arrays:
        """Run once with some tensors at addresses of the memory that the provider runs in.

        Args:
            inputs: those that have no place.
            places: addresses by the names of inputs and outputs.

        Returns:
            The outputs that have no place.

        Raises:
            UserError: as `run`.
        """
        fed = [tensor for tensor in self._graph.fed if tensor.name not in places]
        fetched = [tensor for tensor in self._graph.fetched if tensor.name not in places]
        check_fed(self._graph, fed, inputs)
        try:
            bound = self._graph.state or places
            outputs = self._run_bound(inputs, places) if bound else self._run_plain(inputs)
        except Exception as error:  # ONNX Runtime has a family of exceptions without a public base
            _refuse_memory(error, f"ran {self._path.name}")
            raise UserError(f"ONNX Runtime could not run {self._path.name}: {_first_line(error)}.") from error
        check_tensors(self._graph, "output", fetched, outputs)
        return outputs

    def reset(self) -> None:
        """Set state to zeros."""
        self.restore({tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in self._graph.kept})

    def state(self) -> Arrays:
        """Return copies of the state, by the names of inputs."""
        return {name: value.numpy().copy() for name, value in self._state.items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Set state to what `state` gave.

        Raises:
            UserError: other names, shapes or dtypes than the graph declares.
        """
        import onnxruntime as ort

        check_tensors(self._graph, "state", self._graph.kept, state)
        self._state = {
            name: ort.OrtValue.ortvalue_from_numpy(np.array(array), self._device, 0) for name, array in state.items()
        }

    @property
    def _device(self) -> str:
        """Where ONNX Runtime keeps what the graph makes, in its own words."""
        return "cuda" if self._session.get_providers()[0] in ON_GPU else "cpu"

    def _run_plain(self, inputs: Mapping[str, Array]) -> Arrays:
        names = [tensor.name for tensor in self._graph.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def _run_bound(self, inputs: Mapping[str, Array], places: Mapping[str, int]) -> Arrays:
        """State is bound where the graph runs, not copied: what a call gives is what the next one reads."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            # Not `ascontiguousarray`, which gives a scalar a dimension.
            binding.bind_cpu_input(name, np.asarray(array, order="C"))
        for name, value in self._state.items():
            binding.bind_ortvalue_input(name, value)
        names = [tensor.name for tensor in self._graph.outputs]
        kept = {pair.output for pair in self._graph.state}
        for name in names:
            if name not in places:
                binding.bind_output(name, self._device if name in kept else "cpu")
        for bind, tensors in ((binding.bind_input, self._graph.fed), (binding.bind_output, self._graph.fetched)):
            for tensor in (tensor for tensor in tensors if tensor.name in places):
                bind(tensor.name, self._device, 0, np.dtype(tensor.dtype), tensor.shape, places[tensor.name])
        self._session.run_with_iobinding(binding)
        # Outputs stand in the order in which they were bound.
        bound = [name for name in names if name not in places] + [name for name in names if name in places]
        made = dict(zip(bound, binding.get_outputs(), strict=True))
        self._state = {pair.input: made[pair.output] for pair in self._graph.state}
        return {tensor.name: made[tensor.name].numpy() for tensor in self._graph.fetched if tensor.name not in places}

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


def available_providers() -> list[str]:
    """Return the full names of the providers that this ONNX Runtime was built with."""
    import onnxruntime as ort

    names: list[str] = ort.get_available_providers()
    return names


def check_provider(name: str) -> None:
    """Refuse, before any work, a provider that this ONNX Runtime does not have.

    Raises:
        UserError: it has none of this name; says what to install.
    """
    find_provider(name, available_providers())


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


def _load(path: Path, options: Any, name: str, stream: int | None) -> Any:
    import onnxruntime as ort

    if not path.is_file():
        raise UserError(f"There is no graph at {path}; export the bundle, or check the path.")
    provider = find_provider(name, ort.get_available_providers(), stream)
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
