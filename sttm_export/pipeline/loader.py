"""Graphs of a bundle, loaded by what runs them here: one for a moment, or the two of the vision side to stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from sttm_export.bundle.opened import Bundle, verify_files_of
from sttm_export.contracts.graph import TOKEN_MERGER, VISION_ENCODER
from sttm_export.pipeline.backend import Backend
from sttm_export.runtime.memory import GpuMemory, HostMemory
from sttm_export.runtime.ort_session import OrtSession
from sttm_export.runtime.providers import on_gpu
from sttm_export.runtime.resident import FEATURES, Below, Vision
from sttm_export.runtime.session import StatefulSession
from sttm_export.runtime.trt_session import TrtSession


class Loader:
    """Loads graphs of a bundle, as engines or in ONNX Runtime.

    Args:
        bundle: opened.
        backend: what runs them.
        cuda_graph: launch each engine as one CUDA graph.
        threads: of ONNX Runtime within an operator; 0 leaves the choice to it.
        low_memory: let ONNX Runtime return memory after every run, which takes longer.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        *,
        cuda_graph: bool = False,
        threads: int = 0,
        low_memory: bool = False,
    ) -> None:
        self.bundle, self.backend, self._cuda_graph = bundle, backend, cuda_graph
        self._threads, self._low_memory = threads, low_memory
        self._verified: set[str] = set()

    def verify(self, *files: str) -> None:
        """Hold files of the bundle to their sums before they are read, once; engines are held to their own records.

        Raises:
            UserError: one was changed after the export, or is missing.
        """
        verify_files_of(self.bundle, [name for name in files if name not in self._verified])
        self._verified.update(files)

    @contextmanager
    def open(self, name: str) -> Iterator[StatefulSession]:
        """Load a graph, and free it at the end of the block.

        Raises:
            UserError: it was changed after the export, or cannot be loaded.
        """
        with ExitStack() as stack:
            yield self._session(name, stack)

    @contextmanager
    def vision(self, below: Below | None = None) -> Iterator[Vision]:
        """Load vision encoder and token merger, to run in one memory, and free them at the end of the block.

        Args:
            below: what lies between the two, if tokens merge inside the language model.

        Raises:
            UserError: one of them cannot be loaded, or there is no memory for them.
        """
        with ExitStack() as stack:
            memory = GpuMemory() if self.on_gpu else HostMemory()
            stack.callback(memory.close)
            encoder = self._session(VISION_ENCODER, stack, memory, [FEATURES])
            merger = self._session(TOKEN_MERGER, stack, memory, [] if below else [FEATURES])
            fixed = self.backend.engines is not None and self._cuda_graph
            yield Vision(encoder, merger, memory, self.bundle.merge, below=below, fixed=fixed)

    @property
    def on_gpu(self) -> bool:
        """Whether graphs run on a GPU."""
        return self.backend.engines is not None or on_gpu(self.backend.provider)

    def _session(
        self,
        name: str,
        stack: ExitStack,
        memory: GpuMemory | HostMemory | None = None,
        placed: Sequence[str] = (),
    ) -> TrtSession | OrtSession:
        graph, engines = self.bundle.graph(name), self.backend.engines
        if engines is not None:
            stream = memory.queue if isinstance(memory, GpuMemory) else None
            session = TrtSession(
                engines.engines[name], graph, cuda_graph=self._cuda_graph, stream=stream, placed=placed
            )
            return stack.enter_context(session)
        self.verify(graph.onnx_file, f"{graph.onnx_file}.data")
        return OrtSession(
            self.bundle.onnx_path(name),
            graph,
            threads=self._threads,
            provider=self.backend.provider,
            low_memory=self._low_memory,
            stream=memory.stream if memory else None,
        )
