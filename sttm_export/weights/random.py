"""Random weights that behave: for trying the whole pipeline where no checkpoint can be had.

Rules, each with its reason:
1. Uniform draws from NumPy's PCG64: bits to float32 without a math library, so a seed gives the same bytes anywhere.
2. Rounded to bfloat16, the dtype of the published checkpoints: rounding to float16 is then as harmless as theirs.
3. Residual branches are damped by depth, and attention is sharpened: a random tower that averages its patches makes
   all tokens alike, and then every video merges to nothing.
4. No bias is zero: the ONNX exporter merges equal initializers, which hides mix-ups of parameters.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sttm_export.contracts.model import ModelSpec
from sttm_export.families.llava.parameters import Shape, parameter_shapes


def random_state(model: ModelSpec, seed: int) -> dict[str, Tensor]:
    """Return a canonical state of bfloat16 tensors, the same for the same model and seed."""
    generator = np.random.Generator(np.random.PCG64(seed))
    shapes = parameter_shapes(model)
    return {name: _tensor(generator, name, shape, model.tower.layers) for name, shape in shapes.items()}


def _tensor(generator: np.random.Generator, name: str, shape: Shape, layers: int) -> Tensor:
    centre, deviation = _distribution(name, shape, layers)
    values = generator.random(shape, dtype=np.float32)
    values -= 0.5
    # A uniform draw of width w has a standard deviation of w / sqrt(12).
    values *= np.float32(deviation * math.sqrt(12.0))
    values += np.float32(centre)
    return torch.from_numpy(values).to(torch.bfloat16)


def _distribution(name: str, shape: Shape, layers: int) -> tuple[float, float]:
    """Return mean and standard deviation."""
    if "layer_norm" in name:
        return (1.0, 0.1) if name.endswith("weight") else (0.0, 0.1)
    if name.endswith("bias"):
        return 0.0, 0.02
    if "position_embedding" in name:
        return 0.0, 0.1
    scale = 1.0 / math.sqrt(math.prod(shape[1:]))
    if "q_proj" in name or "k_proj" in name:
        scale *= 2.0
    if "out_proj" in name or "mlp.fc2" in name:
        scale /= math.sqrt(2.0 * layers)
    return 0.0, scale
