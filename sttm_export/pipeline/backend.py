"""What runs the graphs of a bundle on this machine, chosen once and said."""

from __future__ import annotations

from dataclasses import dataclass

from sttm_export.bundle.opened import Bundle
from sttm_export.engines.compatibility import Selection, engines_here
from sttm_export.engines.driver import find_gpu
from sttm_export.errors import UserError
from sttm_export.runtime.ort_session import available_providers, check_provider
from sttm_export.runtime.providers import CPU, CUDA

AUTO, ENGINE = "auto", "engine"


@dataclass(frozen=True)
class Backend:
    """Engines, or a provider of ONNX Runtime."""

    engines: Selection | None  # TensorRT engines that run here; None for ONNX Runtime
    provider: str = CPU  # of ONNX Runtime
    why: str = ""  # what spoke for it, where it was not asked for

    @property
    def on_cpu(self) -> bool:
        """Whether weights come to lie in the memory of the processor, not of a GPU."""
        return self.engines is None and self.provider.lower() in {"cpu", CPU.lower()}


def choose_backend(bundle: Bundle, name: str = AUTO, target: str | None = None) -> Backend:
    """Take what was asked for; `auto` takes engines that run here, else CUDA where ONNX Runtime has it, else the CPU.

    Args:
        bundle: opened.
        name: `auto`, `engine` for TensorRT, or a provider of ONNX Runtime: `cpu`, `cuda`, `tensorrt`, or a full name.
        target: whose engines; None takes the first that run here.

    Raises:
        UserError: what was asked for is not here; says what is missing.
    """
    if name == ENGINE:
        return Backend(engines_here(bundle, target))
    if target is not None:
        raise UserError(f"The target {target} is about engines; give the backend 'engine' with it.")
    if name != AUTO:
        check_provider(name)
        return Backend(None, name)
    try:
        return Backend(engines_here(bundle), why="it has engines that run here")
    except UserError as error:
        lacking = str(error).rstrip(".")
    if CUDA in available_providers() and find_gpu() is not None:
        return Backend(None, CUDA, why=f"no engine ({lacking})")
    return Backend(None, CPU, why=f"no engine ({lacking}), and ONNX Runtime has no GPU to run on")
