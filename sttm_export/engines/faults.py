"""The exceptions of this room."""

from __future__ import annotations

from sttm_export.errors import UserError


class UnavailableError(UserError):
    """An engine cannot be built here: TensorRT or a GPU is missing. The message says what to do instead."""


class EngineError(Exception):
    """TensorRT refused a graph or could not build it; names the node and the operator where TensorRT does."""
