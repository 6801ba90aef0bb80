"""The vision encoder's parameters: canonical name → shape, in canonical order.

Names: `tower.patch_embedding.*`, `tower.position_embedding.weight`, `tower.layers.{i}.<published SigLIP name>`,
`projector.fc1.*` and `projector.fc2.*`. No post-layernorm and no pooling head: the models do not use them.
"""

from __future__ import annotations

from sttm_export.contracts.model import ModelSpec, TowerSpec

Shape = tuple[int, ...]
TOWER_PREFIX = "tower."


def parameter_shapes(model: ModelSpec) -> dict[str, Shape]:
    """Return every parameter of the vision encoder with its shape; the order is the canonical one."""
    tower, output = model.tower, model.projector.output_size
    shapes = _embedding_shapes(tower)
    for index in range(tower.layers):
        shapes.update({f"tower.layers.{index}.{name}": shape for name, shape in _layer_shapes(tower).items()})
    shapes.update(_linear("projector.fc1", tower.hidden_size, output))
    shapes.update(_linear("projector.fc2", output, output))
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _embedding_shapes(tower: TowerSpec) -> dict[str, Shape]:
    hidden, patch = tower.hidden_size, tower.patch_size
    return {
        "tower.patch_embedding.weight": (hidden, 3, patch, patch),
        "tower.patch_embedding.bias": (hidden,),
        "tower.position_embedding.weight": (tower.patches_per_side**2, hidden),
    }


def _layer_shapes(tower: TowerSpec) -> dict[str, Shape]:
    hidden, inner = tower.hidden_size, tower.intermediate_size
    shapes: dict[str, Shape] = {}
    for norm in ("layer_norm1", "layer_norm2"):
        shapes.update({f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)})
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes.update(_linear(f"self_attn.{projection}", hidden, hidden))
    shapes.update(_linear("mlp.fc1", hidden, inner))
    shapes.update(_linear("mlp.fc2", inner, hidden))
    return shapes
