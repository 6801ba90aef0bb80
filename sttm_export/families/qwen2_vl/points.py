"""Where Qwen2-VL's vision tower can be quantized."""

from __future__ import annotations

from sttm_export.families.qwen2_vl.architecture import Qwen2VL
from sttm_export.quantization.points import Absorber, Point


def quantization_points(qwen: Qwen2VL) -> tuple[Point, ...]:
    """The tensors that Linears read, in the order of the data; patches and attention stay as they are."""
    tower = qwen.tower
    width, points = tower.embed_dim, list[Point]()
    for index in range(tower.depth):
        block = f"blocks.{index}"
        # Rows of `qkv` that make values, behind those of queries and keys: attention is linear in them.
        values = Absorber((f"{block}.attn.qkv.weight", f"{block}.attn.qkv.bias"), width, 2 * width)
        points += [
            Point(f"{block}.qkv", (f"{block}.attn.qkv",), width, Absorber.of(f"{block}.norm1", width)),
            Point(f"{block}.proj", (f"{block}.attn.proj",), width, values),
            Point(f"{block}.fc1", (f"{block}.mlp.fc1",), width, Absorber.of(f"{block}.norm2", width)),
            Point(f"{block}.fc2", (f"{block}.mlp.fc2",), tower.inner_size),
        ]
    return (
        *points,
        # The patches of a merge window side by side: each channel of the norm comes several times.
        Point("merger.mlp.0", ("merger.mlp.0",), tower.window_values, Absorber.of("merger.ln_q", width)),
        Point("merger.mlp.2", ("merger.mlp.2",), tower.window_values),
    )
