"""What an export will take, before it is begun: bytes on disk and in memory, and seconds, part by part.

Memory and disk follow from sizes. Seconds are those of two cores of a server of 2024 (docs/models.md, section 7); on
another machine they tell parts from each other rather than the time.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod

from sttm_export.contracts.decoding import INT4_BYTES
from sttm_export.contracts.graph import FLOAT_OF, INT8, STORAGE
from sttm_export.engines.build import capabilities_for
from sttm_export.engines.memory import PER_WEIGHT, RTX_BASE
from sttm_export.errors import UserError
from sttm_export.families.part import Part
from sttm_export.language.checkpoint import embedding_shapes, is_product
from sttm_export.system import read_memory, size_text
from sttm_export.workflows.plan import ExportPlan
from sttm_export.workflows.quantize import weight_bytes

# A part is in memory as it was read, two bytes a parameter, as a module in float32, and about one byte of copies on the
# way; before that come Python, PyTorch and ONNX Runtime. Measured: 4.1 GiB for a vision encoder, 10.6 for six layers.
# Weights of four bits take a byte more: ONNX Runtime has them in float16 and float32 while it unpacks them. Measured:
# 5.0 GiB for two layers of a 7B.
_BYTES_A_PARAMETER, _BASE = 2 + 4 + 1, int(0.9 * 2**30)
# Of a part's examination: three stages on about three cases, one of them a call of another size.
_STAGES, _CASES = 3, 3
# Measured: reading or drawing weights, tracing and writing, both by parameter; arithmetic in float32; a builder.
_READ, _WRITE, _START = 5e-9, 10e-9, 4.0
_ARITHMETIC = 1e11  # operations a second
_BUILD = 7e-9  # seconds a byte
_QUANTIZE = 25e-9  # seconds a weight of four bits: six candidates for each scale, and its error


@dataclass(frozen=True)
class PartEstimate:
    """One part, or the table of embeddings, which is no graph."""

    name: str
    parameters: int
    weights: int  # bytes in the bundle
    memory: int  # bytes to export and check it
    engine_memory: int  # bytes to build one engine of it; 0 where none is built
    seconds: float


def estimate_parts(plan: ExportPlan) -> list[PartEstimate]:
    """Return a row for each part, in the order of the data, and one for the embeddings where there are some."""
    rows = [_estimate(plan, part) for part in plan.parts]
    if plan.recipe.decoding is None:
        return rows
    count = prod(*embedding_shapes(plan.recipe.decoder).values())
    weights = count * _bytes_a_weight(plan)
    return [*rows, PartEstimate("embeddings", count, weights, weights + 2 * count, 0, (_READ + _WRITE) * count)]


def estimate_memory(plan: ExportPlan) -> int:
    """Bytes that the export takes at least: of its largest part, and the frames it is validated on."""
    pixels = plan.model.pixels
    largest = max(_memory(plan, part) for part in plan.parts)
    return largest + 4 * 3 * pixels.height * pixels.width * plan.validation_frames


def estimate_bytes(plan: ExportPlan) -> int:
    """Rough size of the bundle: weights once in ONNX and once in every engine, fixtures, a little over."""
    rows = estimate_parts(plan)
    graphs = sum(row.weights for row in rows)
    engines = sum(row.weights for row in rows if row.engine_memory) * engine_copies(plan)
    # State is mostly zeros, and packed.
    sides = [(part.graph.row_counts, (*part.graph.fed, *part.graph.fetched)) for part in plan.parts]
    fixtures = sum(tensor.nbytes * max(counts, default=1) for counts, side in sides for tensor in side)
    return graphs + engines + fixtures * bool(plan.validation_frames) + 32 * 2**20


def check_room(plan: ExportPlan) -> None:
    """Refuse what this machine has no disk or no memory for, before it is found out by the kernel.

    Raises:
        UserError: says what is needed and what is there.
    """
    parent = next(folder for folder in (plan.output.parent, *plan.output.parent.parents) if folder.exists())
    free, need = shutil.disk_usage(parent).free, estimate_bytes(plan)
    if free < need:
        raise UserError(
            f"The bundle needs about {size_text(need)} and {parent.resolve()} has {size_text(free)} free; "
            "free some space, choose another --output, or leave the engines out with --no-engines."
        )
    memory, need = read_memory().with_swap, estimate_memory(plan)
    if memory is not None and memory < need:
        fewer = "fewer --group-layers, " if plan.recipe.decoding else ""
        raise UserError(
            f"The export needs at least {size_text(need)} of memory and {size_text(memory)} are free; give {fewer}"
            "fewer --frames or a smaller --batch, or export on a machine with more memory."
        )


def engine_copies(plan: ExportPlan) -> int:
    """Engines of each graph that the export builds."""
    copies = sum(len(capabilities_for(row, plan.capabilities)) for row in plan.targets if row.builds_without_gpu)
    return copies * plan.engines


def _estimate(plan: ExportPlan, part: Part) -> PartEstimate:
    few, weights = _quantized(part), _weights(plan, part)
    built = engine_copies(plan)
    calls = (_STAGES * _CASES + part.calls(plan.validation_frames)) * bool(plan.validation_frames)
    if _is_int8(plan, part):
        # The float encoder on the cases and the clip, what layers cost, and one trial.
        calls += 2 * (_CASES - 1) + part.calls(plan.validation_frames) + 1
    # Twice through the layers, exact and quantized, to see what four bits lose.
    calls += 2 * bool(few) * bool(plan.validation_frames)
    seconds = _START + (_READ + _WRITE) * part.parameters + calls * part.operations / _ARITHMETIC + _QUANTIZE * few
    building = int(RTX_BASE + PER_WEIGHT * weights) if built else 0
    seconds += built * _BUILD * weights
    return PartEstimate(part.name, part.parameters, weights, _memory(plan, part), building, seconds)


def _quantized(part: Part) -> int:
    """Parameters that are stored in four bits."""
    return sum(prod(shape) for name, shape in part.shapes.items() if part.quantizing and is_product(name))


def part_memory(part: Part) -> int:
    """Bytes that a part takes while it is loaded and run in PyTorch, about."""
    return _BASE + _BYTES_A_PARAMETER * part.parameters + _quantized(part) + part.activations


def _memory(plan: ExportPlan, part: Part) -> int:
    # What layers cost is found by one step forward and back, for which every layer's activations are kept.
    steps = part.graph.outputs[0].shape[0]
    kept = part.graph.judge.layers * part.activations // steps if _is_int8(plan, part) else 0
    return part_memory(part) + max(0, kept - part.activations)


def _is_int8(plan: ExportPlan, part: Part) -> bool:
    return plan.recipe.precision == INT8 and bool(part.points)


def _weights(plan: ExportPlan, part: Part) -> int:
    """Bytes of a part's weights; of an int8 encoder as if every layer were int8."""
    if _is_int8(plan, part):
        return weight_bytes(part, [point.name for point in part.points])
    few = _quantized(part)
    return (part.parameters - few) * _bytes_a_weight(plan) + int(few * INT4_BYTES)


def _bytes_a_weight(plan: ExportPlan) -> int:
    return STORAGE[FLOAT_OF[plan.recipe.precision]].nbytes
