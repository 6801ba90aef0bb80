"""Where a SigLIP tower and its projector can be quantized."""

from __future__ import annotations

from sttm_export.families.llava.architecture import Llava
from sttm_export.quantization.points import Absorber, Point


def quantization_points(llava: Llava) -> tuple[Point, ...]:
    """The tensors that Linears read, in the order of the data; patch convolution and attention stay as they are."""
    width, inner = llava.tower.hidden_size, llava.tower.intermediate_size
    points: list[Point] = []
    for index in range(llava.tower.layers):
        layer = f"tower.layers.{index}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        projections = tuple(f"{attention}.{name}_proj" for name in "qkv")
        points += [
            Point(f"{layer}.qkv", projections, width, Absorber.of(f"{layer}.layer_norm1", width)),
            # Attention is linear in its values: their rows take up what its output is divided by.
            Point(f"{layer}.out_proj", (f"{attention}.out_proj",), width, Absorber.of(f"{attention}.v_proj", width)),
            Point(f"{layer}.fc1", (f"{mlp}.fc1",), width, Absorber.of(f"{layer}.layer_norm2", width)),
            Point(f"{layer}.fc2", (f"{mlp}.fc2",), inner),
        ]
    return (
        *points,
        Point("projector.fc1", ("projector.fc1",), width),
        Point("projector.fc2", ("projector.fc2",), llava.channels),
    )
