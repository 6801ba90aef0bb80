"""The exception of this room."""

from __future__ import annotations


class GraphError(Exception):
    """A produced graph is not what was declared; names tensor and node. A fault of the exporter, not of the user."""
