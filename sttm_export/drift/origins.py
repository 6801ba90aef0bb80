"""Where in PyTorch a node of a traced program comes from: its module, and the line of this package that made it."""

from __future__ import annotations

import inspect
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch.fx import Node

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)')
_PACKAGE = "sttm_export/"


class Origin(NamedTuple):
    """Where in PyTorch a tensor comes from."""

    module: str  # path and class of the module, such as `tower.layers.3.mlp.fc1 (Linear)`; the class alone for the root
    source: str  # file, line and function, such as `merging/quadtree.py:88 (head_dot)`
    code: str  # the line itself


def keep_frames() -> None:
    """Let traces keep the frames of every function of this package, not of `forward` alone.

    What registers a function is not part of PyTorch's documented interface: where it is missing, a tensor's source is
    the line of `forward`.
    """
    import torch

    register = getattr(torch.fx.proxy, "_register_stack_trace_anchor", None)
    loaded = [module for name, module in sys.modules.items() if name.startswith(f"{__name__.partition('.')[0]}.")]
    for module in loaded if register else ():
        members = [member for member in vars(module).values() if getattr(member, "__module__", "") == module.__name__]
        methods = [method for member in members if isinstance(member, type) for method in vars(member).values()]
        for function in filter(inspect.isfunction, (*members, *methods)):
            register(function)  # type: ignore[misc]


def origin_of(node: Node) -> Origin:
    """Where a node of a traced program comes from."""
    path, kind = list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1]
    name = (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
    # The innermost frame of this package; frames below it are PyTorch's own.
    frames = [frame for frame in _FRAME.findall(node.meta.get("stack_trace") or "") if _PACKAGE in frame[0]]
    file, line, function, code = frames[-1] if frames else ("", "", "", "")
    source = f"{file.rpartition(_PACKAGE)[2]}:{line} ({function})" if file else ""
    return Origin(f"{path} ({name})" if path else name, source, code.strip())
