"""From an engine file to something that runs: deserialize, context, layers. The runtime half of `api.py`."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sttm_export.bundle.records import BUILD_HERE
from sttm_export.engines.api import Api, Message
from sttm_export.errors import UserError

# TensorRT's names of the types that graphs declare.
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT32": "int32", "BOOL": "bool"}
# Names and kernels of TensorRT's fused attention: `_gemm_mha_v2_0x…`, `fmha_v2_flash_attention_…` (NVIDIA/TensorRT
# issues 4397 and 3575; engines of TensorRT-RTX 1.7). No node of this package's graphs has such a name.
_FUSED = re.compile(r"mha|flash_attention|flashattention", re.IGNORECASE)


@dataclass(frozen=True)
class EngineTensor:
    """An input or output as an engine has it."""

    name: str
    is_input: bool
    shape: tuple[int, ...]
    dtype: str
    layout: str = "LINEAR"


@dataclass(frozen=True)
class Layer:
    """One layer of an engine; kind and kernel are empty where the engine was built without details."""

    name: str
    kind: str = ""
    kernel: str = ""

    @property
    def is_attention(self) -> bool:
        """Whether it is a fused attention."""
        return bool(_FUSED.search(self.kernel or self.name) or _FUSED.search(self.kind))


class LoadedEngine:
    """A deserialized engine and what must live as long as it.

    Args:
        api: the TensorRT to load it with.
        path: the engine.

    Raises:
        UserError: TensorRT refused it; with TensorRT's reason.
    """

    def __init__(self, api: Api, path: Path) -> None:
        self.api = api
        self.path = path
        self._messages: list[Message] = []
        self._logger = api.logger(self._messages)
        try:
            self._runtime = api.module.Runtime(self._logger)
        except TypeError as error:
            raise UserError(f"{api.flavour} {api.version} could not start: {self.reason() or error}.") from error
        self._engine = self._deserialize()
        if self._engine is None:
            raise UserError(
                f"{api.flavour} {api.version} does not load {path.name} ({self.reason() or 'no reason given'}): it was "
                f"built with another version, for another GPU, or is damaged; {BUILD_HERE}."
            )

    def tensors(self) -> list[EngineTensor]:
        """Return inputs and outputs in the engine's order."""
        engine, rows = self._engine, []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            kind = engine.get_tensor_dtype(name).name
            rows.append(
                EngineTensor(
                    name=name,
                    is_input=engine.get_tensor_mode(name) == self.api.module.TensorIOMode.INPUT,
                    shape=tuple(int(size) for size in engine.get_tensor_shape(name)),
                    dtype=DTYPES.get(kind, kind.lower()),
                    layout=engine.get_tensor_format(name).name,
                )
            )
        return rows

    def layers(self) -> list[Layer]:
        """Return every layer of the engine.

        Raises:
            UserError: these bindings have no inspector, or it gives nothing that can be read.
        """
        try:
            inspector = self._engine.create_engine_inspector()
            return parse_layers(inspector.get_engine_information(self.api.module.LayerInformationFormat.JSON))
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the inspector of {self.api.flavour} {self.api.version} gave no layers ({error})"
            ) from error

    def context(self, cuda_graph: bool) -> Any:
        """Create an execution context.

        TensorRT-RTX compiles kernels on the device in its first runs and knows itself when a CUDA graph can be made, so
        there it is asked to; with full TensorRT the caller captures its stream.

        Raises:
            UserError: no memory for it, or no CUDA graphs in these bindings.
        """
        self._messages.clear()
        arguments = (self._graph_config(),) if cuda_graph and self.captures_itself else ()
        context = self._engine.create_execution_context(*arguments)
        if context is None:
            raise UserError(
                f"{self.api.flavour} cannot prepare {self.path.name} ({self.reason() or 'no reason given'}); close "
                "other programs that use the GPU, or export with fewer --frames or a smaller --batch."
            )
        return context

    @property
    def captures_itself(self) -> bool:
        """Whether this TensorRT makes CUDA graphs on its own."""
        return self.api.flavour == "tensorrt-rtx"

    def reason(self) -> str:
        """Return TensorRT's errors since the last step began, in one line."""
        errors = [" ".join(row.text.split()).rstrip(".") for row in self._messages if row.severity.endswith("ERROR")]
        return "; ".join(dict.fromkeys(errors))

    def close(self) -> None:
        """Let go of engine and runtime; contexts must be gone before."""
        self._engine = None
        self._runtime = None

    def _deserialize(self) -> Any:
        # Mapped, not read: an encoder's engine has gigabytes, and on a Jetson the GPU's copy lies in the same memory.
        try:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return self._runtime.deserialize_cuda_engine(data)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be read ({error}); copy or build the engine anew.") from error

    def _graph_config(self) -> Any:
        try:
            config = self._engine.create_runtime_config()
            config.cuda_graph_strategy = self.api.module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        except AttributeError as error:
            raise UserError(
                f"{self.api.flavour} {self.api.version} has no CUDA graphs; leave --cuda-graph out, or update it."
            ) from error
        return config


def parse_layers(text: str) -> list[Layer]:
    """Read what `EngineInspector.get_engine_information` gives as JSON.

    Raises:
        ValueError: it is not of that form.
    """
    return [
        Layer(row)
        if isinstance(row, str)
        else Layer(str(row.get("Name", "")), str(row.get("LayerType", "")), str(row.get("TacticName", "")))
        for row in json.loads(text)["Layers"]
    ]


def count_attention(layers: Sequence[Layer]) -> int:
    """How many of the layers are fused attentions."""
    return sum(layer.is_attention for layer in layers)
