"""Python packages of this machine that can be used, found out in processes of their own.

A library that is broken can end the process that loads it, and two TensorRTs need not get along in one; and what was
loaded to ask for its version takes memory that a build on an 8 GB machine needs.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sttm_export.engines.api import MODULES
from sttm_export.engines.children import child_environment, code_command

_SECONDS = 120.0
_PROVIDERS = "import onnxruntime as m; print(m.__version__); print(*m.get_available_providers(), sep='\\n')"


@dataclass(frozen=True)
class ModuleFacts:
    """One package."""

    name: str  # as it is imported
    version: str = ""  # empty if it does not load
    reason: str = ""  # why it does not load
    extras: tuple[str, ...] = ()  # what else it was asked, for ONNX Runtime its providers

    @property
    def loads(self) -> bool:
        """Whether it can be used."""
        return bool(self.version)


def ask_module(name: str, code: str = "") -> ModuleFacts:
    """Import a package in a new process and return its version, or why it does not load.

    Args:
        name: as it is imported.
        code: prints the version, and what else is wanted in further lines.
    """
    if not _is_installed(name):
        return ModuleFacts(name, reason="not installed")
    code = code or f"import {name} as m; print(m.__version__)"
    # The child must see what this process sees, also what was added to its path after it started.
    paths = os.pathsep.join(path for path in sys.path if Path(path).is_absolute())
    environment = child_environment() | {"PYTHONPATH": paths}
    try:
        done = subprocess.run(
            code_command(code), env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return ModuleFacts(name, reason=" ".join(str(error).split()))
    lines = done.stdout.split("\n")
    if done.returncode or not lines[0]:
        return ModuleFacts(name, reason=_reason(done.stderr, done.returncode))
    return ModuleFacts(name, lines[0], extras=tuple(filter(None, lines[1:])))


def ask_tensorrt() -> dict[str, ModuleFacts]:
    """Return the TensorRT of each flavour; where a flavour has two names, the one that loads."""
    return {flavour: _first(names) for flavour, names in MODULES.items()}


def ask_onnxruntime() -> ModuleFacts:
    """Return ONNX Runtime with its execution providers."""
    return ask_module("onnxruntime", _PROVIDERS)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _first(names: tuple[str, ...]) -> ModuleFacts:
    found = [ask_module(name) for name in names]
    loading = next((module for module in found if module.loads), None)
    broken = next((module for module in found if module.reason != "not installed"), None)
    return loading or broken or found[0]


def _reason(errors: str, code: int) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1] if lines else f"its process ended with code {code}"
