"""What an engine is made of, by TensorRT's inspector: every layer with its kernel, and whether attention is fused."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Names and kernels of TensorRT's fused attention: `_gemm_mha_v2_0x…`, `fmha_v2_flash_attention_…` (NVIDIA/TensorRT
# issues 4397 and 3575; engines of TensorRT-RTX 1.7). No node of this package's graphs has such a name.
_FUSED = re.compile(r"mha|flash_attention|flashattention", re.IGNORECASE)


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


def parse_layers(text: str) -> list[Layer]:
    """Read what `EngineInspector.get_engine_information` gives as JSON.

    Raises:
        ValueError: it is not of that form.
    """
    rows = json.loads(text)["Layers"]
    return [_layer(row) for row in rows]


def count_attention(layers: Sequence[Layer]) -> int:
    """How many of the layers are fused attentions."""
    return sum(layer.is_attention for layer in layers)


def _layer(row: Any) -> Layer:
    if isinstance(row, str):
        return Layer(row)
    return Layer(str(row.get("Name", "")), str(row.get("LayerType", "")), str(row.get("TacticName", "")))
