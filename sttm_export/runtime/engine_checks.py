"""Whether an engine file is the one that was built, and of the graph that is declared."""

from __future__ import annotations

from pathlib import Path

from sttm_export.bundle.records import BUILD_HERE, Sidecar, sha256_of
from sttm_export.contracts.graph import GraphSpec, TensorSpec
from sttm_export.engines.execution import EngineTensor
from sttm_export.errors import UserError


def check_unchanged(engine: Path, sidecar: Sidecar | None) -> None:
    """Refuse an engine whose bytes are not those that its sidecar records; without a record it is not judged."""
    recorded = sidecar.sha256 if sidecar else None
    if recorded and sha256_of(engine) != recorded:
        raise UserError(f"{engine} was changed after it was built (its sha256 is not the recorded one); {BUILD_HERE}.")


def check_tensors(graph: GraphSpec, found: list[EngineTensor], path: Path) -> None:
    """Refuse an engine whose inputs and outputs are not the declared ones; every difference in one message."""
    faults = []
    for is_input, declared in ((True, graph.inputs), (False, graph.outputs)):
        side = "input" if is_input else "output"
        have = {tensor.name: tensor for tensor in found if tensor.is_input == is_input}
        names = [tensor.name for tensor in declared]
        faults += [f"{side} '{name}' is missing" for name in names if name not in have]
        faults += [f"it has a further {side} '{name}'" for name in have if name not in names]
        for tensor in (tensor for tensor in declared if tensor.name in have):
            real, wanted = _described(have[tensor.name]), _described(tensor)
            faults += [f"{side} '{tensor.name}' is {real}, expected {wanted}"] if real != wanted else []
    if faults:
        raise UserError(
            f"{path.name} is no engine of the graph '{graph.name}' of this bundle: {'; '.join(faults)}; build it from "
            "this bundle."
        )


def _described(tensor: EngineTensor | TensorSpec) -> str:
    layout = getattr(tensor, "layout", "LINEAR")
    return f"{tensor.dtype} {list(tensor.shape)}{'' if layout == 'LINEAR' else f' in the layout {layout}'}"
