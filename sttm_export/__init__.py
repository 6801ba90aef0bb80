"""Static-shape export of STTM video token merging to ONNX and TensorRT.

`sttm_export.load` opens a bundle for a program that embeds it (docs/embedding.md); the rest is the command line's.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sttm_export.errors import UserError
    from sttm_export.pipeline.load import load
    from sttm_export.pipeline.resident import Pipeline
    from sttm_export.runtime.merged import MergedTokens
    from sttm_export.streams.window import Counts, Emitted

__version__ = "0.1.0"
__all__ = ["Counts", "Emitted", "MergedTokens", "Pipeline", "UserError", "__version__", "load"]

# ONNX Runtime from 1.32 on writes a device id into the user's cache when it is imported, and reports to its vendor. It
# reads this variable once, at that moment; here it is set before any module of this package can import it, and child
# processes inherit it. Whoever sets it (0 lets it report) is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Where each public name is; imported when it is used, so that `--help` stays quick and a device kit small.
_PUBLIC = {
    "Counts": "streams.window",
    "Emitted": "streams.window",
    "MergedTokens": "runtime.merged",
    "Pipeline": "pipeline.resident",
    "UserError": "errors",
    "load": "pipeline.load",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
