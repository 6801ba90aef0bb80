"""A graph as a TensorRT engine: everything allocated once, named arrays in and out."""

from __future__ import annotations

import ctypes
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.bundle.records import BUILD_HERE, read_sidecar
from sttm_export.contracts.graph import ROWS, GraphSpec, TensorSpec, rows_of
from sttm_export.engines.api import Api, load_api
from sttm_export.engines.compatibility import check_runs_here, flavour_of
from sttm_export.engines.cuda import Cuda, Stream
from sttm_export.engines.driver import gpu_capability
from sttm_export.engines.execution import Layer, LoadedEngine
from sttm_export.errors import UserError
from sttm_export.runtime.engine_checks import check_tensors, check_unchanged
from sttm_export.runtime.session import Array, Arrays, check_fed
from sttm_export.runtime.session import check_tensors as check_declared

# As bytes of a whole output: no truth value, no index, and for floats one value of 2^32 in every place.
_UNTOUCHED = 0xA5


class TrtSession:
    """TensorRT or TensorRT-RTX behind the `Session` interface.

    Device and page-locked host memory are allocated once; a run is copy, execute, copy in one stream. State stays on
    the device: each pair has two buffers there, and what one call writes is what the next reads. Not for several
    threads at a time. Close it, or use it in a `with`: GPU memory is not garbage-collected.

    Args:
        engine_path: the engine; its sidecar `<engine>.json` says, before TensorRT is asked, whether it runs here.
        graph: the declaration to hold it to.
        cuda_graph: launch the whole run as one CUDA graph. It is captured in the first run, after the engine ran once
            (TensorRT initialises things then that cannot be captured), and tried before it is used.
        api: the TensorRT to use; None takes the one the engine was built with.
        stream: in which runs are queued; None makes one of its own. What shares it runs in order without waiting.
        placed: inputs and outputs that every run is given a place for; no memory is allocated for them.

    Raises:
        UserError: no such file, no GPU, no TensorRT, an engine that does not run here or is another graph's, no memory.
    """

    def __init__(
        self,
        engine_path: str | Path,
        graph: GraphSpec,
        *,
        cuda_graph: bool = False,
        api: Api | None = None,
        stream: Stream | None = None,
        placed: Sequence[str] = (),
    ) -> None:
        self._placed, self._shared = frozenset(placed), stream
        self._path, self._graph, self._cuda_graph = Path(engine_path), graph, cuda_graph
        if not self._path.is_file():
            raise UserError(f"There is no engine at {self._path}; run `sttm-export build`, or check the path.")
        sidecar = read_sidecar(self._path)
        check_unchanged(self._path, sidecar)
        self._api = api or load_api(flavour_of(self._path, sidecar))
        check_runs_here(sidecar, self._api, gpu_capability())
        self._captured: dict[tuple[Any, ...], Any] = {}
        self._rows, self._flipped, self._unwaited = 0, False, False
        self._buffers: dict[str, tuple[int, int]] = {}
        self._context: Any = None
        self._engine: LoadedEngine | None = None
        self._host: dict[str, NDArray[Any]] = {}
        self._device: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._cuda = Cuda()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def graph(self) -> GraphSpec:
        """The declaration."""
        return self._graph

    @property
    def backend(self) -> str:
        """`tensorrt 10.3.0.30`, and whether as a CUDA graph."""
        return f"{self._api.flavour} {self._api.version}{' as a CUDA graph' if self._cuda_graph else ''}"

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run once; the outputs are new arrays.

        Raises:
            UserError: inputs other than declared, the engine failed, or it cannot be captured as a CUDA graph.
        """
        return self.run_placed(inputs, {})

    def run_placed(self, inputs: Mapping[str, Array], places: Mapping[str, int]) -> Arrays:
        """Run once with some tensors at addresses of GPU memory, in order with what else is in the stream.

        Nothing waits for the run where every output has a place; an error of the GPU is met by whoever waits next.

        Args:
            inputs: those that have no place.
            places: addresses by the names of inputs and outputs; a CUDA graph is captured for each set of them.

        Returns:
            The outputs that have no place; new arrays.

        Raises:
            UserError: as `run`.
        """
        self._fill(inputs, places)
        self._launch()
        self._unwaited = True
        if self._cuda_graph and self._key not in self._captured and not self._loaded().captures_itself:
            self._wait()
            self._capture()
        fetched = self._fetched
        if fetched:
            self._wait()
        outputs: Arrays = {tensor.name: self._view(tensor).copy() for tensor in fetched}
        check_declared(self._graph, "output", fetched, outputs)
        self._flip()
        return outputs

    def reset(self) -> None:
        """Set state to zeros."""
        self.restore({tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in self._graph.kept})

    def state(self) -> Arrays:
        """Return copies of the state, by the names of inputs."""
        self._enter()
        found: Arrays = {}
        for tensor in self._graph.kept:
            array = np.empty(tensor.shape, tensor.dtype)
            self._stream.to_host(array.ctypes.data, self._buffers[tensor.name][self._flipped], array.nbytes)
            found[tensor.name] = array
        self._stream.synchronize()
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """Set state to what `state` gave.

        Raises:
            UserError: other names, shapes or dtypes than the graph declares.
        """
        check_declared(self._graph, "state", self._graph.kept, state)
        self._enter()
        arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
        for name, array in arrays.items():
            self._stream.to_device(self._buffers[name][self._flipped], array.ctypes.data, array.nbytes)
        self._stream.synchronize()

    def layers(self) -> list[Layer]:
        """Return every layer of the engine.

        Raises:
            UserError: TensorRT does not tell.
        """
        return self._loaded().layers()

    def measure(
        self, inputs: Mapping[str, Array] | None, runs: int, *, copies: bool = True, captured: bool = True
    ) -> list[float]:
        """Time runs by the clock of the GPU (CUDA events): Python not included.

        Args:
            inputs: as for `run`, which is called once before, to warm up and to capture; state among them is not read.
                None for those of the last run, without another one.
            runs: how many.
            copies: whether copies of inputs and outputs count; a CUDA graph holds them.
            captured: whether the CUDA graph is launched, where the session has one.

        Returns:
            Milliseconds of each run.
        """
        if inputs is not None:
            self.run({tensor.name: inputs[tensor.name] for tensor in self._graph.fed if tensor.name in inputs})
        self._enter()
        (first, last), taken = self._events, list[float]()
        run = self._enqueue if copies else self._execute
        run = self._launch if captured and self._key in self._captured else run
        for _ in range(runs):
            self._stream.record(first)
            run()
            self._stream.record(last)
            self._stream.synchronize()
            taken.append(self._stream.milliseconds(first, last))
        return taken

    def count_nodes(self) -> Counter[int]:
        """Count what the last run puts on the GPU by its kind (a `CUgraphNodeType`); a `CudaError` where it cannot."""
        self._enter()
        return self._cuda.count_nodes(self._stream, self._enqueue)

    def close(self) -> None:
        """Free everything; safe to call twice. A closed session does not run."""
        self._context = None
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        # Views into memory that is about to be freed.
        self._host.clear()
        self._cuda.close()

    def __enter__(self) -> TrtSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        self._engine = LoadedEngine(self._api, self._path)
        check_tensors(self._graph, self._engine.tensors(), self._path)
        self._context = self._engine.context(self._cuda_graph)
        self._stream = self._shared or self._cuda.stream()
        self._events = self._cuda.event(), self._cuda.event()
        for tensor in (*self._graph.fed, *self._graph.fetched):
            if tensor.name not in self._placed:
                self._allocate(tensor)
        for tensor in self._graph.kept:
            what = f"'{tensor.name}' of {self._path.name}"
            self._buffers[tensor.name] = (
                self._cuda.allocate(tensor.nbytes, what),
                self._cuda.allocate(tensor.nbytes, what),
            )
        self._place_state()
        self.reset()

    @property
    def _key(self) -> tuple[Any, ...]:
        """What a captured graph is good for: so many rows, state in these buffers, and tensors at these places."""
        return self._rows, self._flipped, *sorted(self._places.items())

    @property
    def _fed(self) -> list[TensorSpec]:
        """Inputs that this call brings from the host."""
        return [tensor for tensor in self._graph.fed if tensor.name not in self._places]

    @property
    def _fetched(self) -> list[TensorSpec]:
        """Outputs that this call takes to the host."""
        return [tensor for tensor in self._graph.fetched if tensor.name not in self._places]

    def _allocate(self, tensor: TensorSpec) -> None:
        what = f"'{tensor.name}' of {self._path.name}"
        dtype = np.dtype(tensor.dtype)
        count = math.prod(tensor.sized(max(self._graph.row_counts, default=0)))
        address = self._cuda.allocate_host(count * dtype.itemsize, what)
        memory = (ctypes.c_ubyte * (count * dtype.itemsize)).from_address(address)
        self._host[tensor.name] = np.frombuffer(memoryview(memory), dtype)
        self._device[tensor.name] = self._cuda.allocate(count * dtype.itemsize, what)
        self._place(tensor.name, self._device[tensor.name])

    def _place(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise UserError(f"{self._path.name} takes no memory for '{name}' ({self._reason()}); {BUILD_HERE}.")

    def _place_state(self) -> None:
        for pair in self._graph.state:
            buffers = self._buffers[pair.input]
            self._place(pair.input, buffers[self._flipped])
            self._place(pair.output, buffers[not self._flipped])

    def _address(self, tensor: TensorSpec) -> int:
        return self._places.get(tensor.name) or self._device[tensor.name]

    def _size(self, tensor: TensorSpec) -> int:
        return math.prod(tensor.sized(self._rows)) * np.dtype(tensor.dtype).itemsize

    def _flip(self) -> None:
        if self._graph.state:
            self._flipped = not self._flipped
            self._place_state()

    def _view(self, tensor: TensorSpec) -> NDArray[Any]:
        """The host's side of a tensor, as large as it is in this call."""
        shape = tensor.sized(self._rows)
        return self._host[tensor.name][: math.prod(shape)].reshape(shape)

    def _fill(self, inputs: Mapping[str, Array], places: Mapping[str, int]) -> None:
        self._enter()
        self._point(places)
        check_fed(self._graph, self._fed, inputs)
        self._choose_rows(rows_of(self._graph.fed, inputs))
        # What an earlier run still copies from is not overwritten.
        self._wait()
        for tensor in self._fed:
            np.copyto(self._view(tensor), inputs[tensor.name])

    def _point(self, places: Mapping[str, int]) -> None:
        """Let the engine read and write at these places, and in the session's own memory otherwise."""
        known = {tensor.name for tensor in (*self._graph.fed, *self._graph.fetched)}
        if not self._placed <= places.keys() <= known:
            wrong = sorted((self._placed - places.keys()) or (places.keys() - known))
            raise UserError(f"{self._path.name} is given no place for {wrong[0]!r}, or has no such tensor.")
        for name in known:
            address = places.get(name, self._device.get(name, 0))
            if address != self._places.get(name, self._device.get(name)):
                self._place(name, address)
        self._places = dict(places)

    def _wait(self) -> None:
        """Wait for a run that nobody has waited for; after this, memory of the host is nobody's."""
        if self._unwaited:
            self._stream.synchronize()
            self._unwaited = False

    def _enter(self) -> None:
        self._loaded()
        self._cuda.enter()

    def _choose_rows(self, rows: int) -> None:
        """Take the profile of so many rows; an engine has one for each number that its graph is called with."""
        if rows == self._rows:
            return
        profile = self._graph.row_counts.index(rows)
        taken = self._context.set_optimization_profile_async(profile, self._stream.handle)
        for tensor in self._graph.fed:
            if ROWS in tensor.shape:
                taken = taken and self._context.set_input_shape(tensor.name, tensor.sized(rows))
        if not taken:
            raise UserError(f"{self._path.name} takes no call of {rows} rows ({self._reason()}); {BUILD_HERE}.")
        self._rows = rows

    def _once(self) -> None:
        self._launch()
        self._stream.synchronize()

    def _launch(self) -> None:
        if self._key in self._captured:
            self._stream.launch(self._captured[self._key])
        else:
            self._enqueue()

    def _enqueue(self) -> None:
        for tensor in self._fed:
            host = self._view(tensor)
            self._stream.to_device(self._device[tensor.name], host.ctypes.data, host.nbytes)
        self._execute()
        for tensor in self._fetched:
            host = self._view(tensor)
            self._stream.to_host(host.ctypes.data, self._device[tensor.name], host.nbytes)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise UserError(f"{self._path.name} failed to run ({self._reason()}); {BUILD_HERE}.")

    def _capture(self) -> None:
        try:
            self._captured[self._key] = self._cuda.capture(self._stream, self._enqueue)
            self._check_captured()
        except UserError as error:
            self._captured.pop(self._key, None)
            raise UserError(
                f"{self._path.name} cannot be captured as a CUDA graph ({str(error).rstrip('.')}); run it without "
                "--cuda-graph."
            ) from error

    def _check_captured(self) -> None:
        """Launch the graph over outputs that no run gives; a capture can succeed and hold nothing of the engine.

        Raises:
            UserError: an output is as it was.
        """
        for tensor in self._graph.fetched:
            self._stream.fill(self._address(tensor), _UNTOUCHED, self._size(tensor))
            if tensor.name not in self._places:
                _bytes(self._view(tensor)).fill(_UNTOUCHED)
        self._once()
        for tensor in self._graph.fetched:
            made = np.empty(self._size(tensor), np.uint8)
            self._stream.to_host(made.ctypes.data, self._address(tensor), made.nbytes)
            self._stream.synchronize()
            if (made == _UNTOUCHED).all():
                raise UserError(f"The graph leaves '{tensor.name}' untouched.")

    def _reason(self) -> str:
        return self._loaded().reason() or "no reason given"

    def _loaded(self) -> LoadedEngine:
        if self._engine is None:
            raise UserError(f"The session of {self._path.name} is closed; open the engine again.")
        return self._engine


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """View the bytes of an array; one of rank 0 has no other view than through a flat one."""
    return array.reshape(-1).view(np.uint8)
