"""Random weights that behave: for trying the whole pipeline where no checkpoint can be had.

Rules, each with its reason:
1. Uniform draws from NumPy's PCG64: bits to float32 without a math library, so a seed gives the same bytes anywhere.
   Each parameter has its own stream, so that it is the same whichever others are read.
2. Rounded to bfloat16, the dtype of the published checkpoints: rounding to float16 is then as harmless as theirs.
3. Mean and deviation are the family's to choose; its rules say why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from sttm_export.contracts.decoder import DecoderSpec
from sttm_export.contracts.prompt import PromptSpec
from sttm_export.contracts.weights import WeightSource
from sttm_export.errors import UserError
from sttm_export.weights.layout import Shape
from sttm_export.weights.stand_in_tokenizer import stand_in_tokenizer

Distribution = Callable[[str, Shape], tuple[float, float]]
_LARGEST_SEED = 2**63 - 1


class RandomWeights:
    """Parameters of a seed, bfloat16.

    Args:
        distribution: mean and standard deviation by name and shape.
        seed: 0 to 2^63 - 1.
    """

    def __init__(self, distribution: Distribution, seed: int) -> None:
        if not 0 <= seed <= _LARGEST_SEED:
            raise UserError(f"--random-weights {seed} is no seed; give a number from 0 to {_LARGEST_SEED}.")
        self._distribution, self._seed = distribution, seed
        self.source = WeightSource("random", "random", seed=seed)

    def read(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """Return these parameters by canonical name, in their order."""
        return {name: self._tensor(name, shape) for name, shape in shapes.items()}

    def tokenizer(self, spec: DecoderSpec, prompt: PromptSpec) -> bytes:
        """Return a `tokenizer.json` that fits them: the same for every seed."""
        return stand_in_tokenizer(spec.vocabulary, prompt.tokens)

    def _tensor(self, name: str, shape: Shape) -> Tensor:
        centre, deviation = self._distribution(name, shape)
        stream = np.random.SeedSequence([self._seed, crc32(name.encode())])
        values = np.random.Generator(np.random.PCG64(stream)).random(shape, dtype=np.float32)
        values -= 0.5
        # A uniform draw of width w has a standard deviation of w / sqrt(12).
        values *= np.float32(deviation * math.sqrt(12.0))
        values += np.float32(centre)
        return torch.from_numpy(values).to(torch.bfloat16)
