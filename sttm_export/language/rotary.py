"""Rotary positions: cosines and sines that turn queries and keys, made on the host from positions.

The decoder's graphs take these tables as inputs, so that one graph serves prompts with plain positions (LLaVA) and with
three of them a token (M-RoPE of Qwen2-VL), before merging and after it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.decoder import DecoderSpec

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]


def rotary_tables(spec: DecoderSpec, positions: Positions) -> tuple[Floats, Floats]:
    """Return cosines and sines, [S, D] float32 each; the second half of the channels repeats the first.

    Args:
        spec: of the decoder.
        positions: [P, S]; P = 3 (time, row, column) with `mrope_section`, else 1.
    """
    half = spec.head_dim // 2
    # In double precision: at position 10^4 a float32 product is off by 10^-3 of a turn for the fastest channels.
    frequencies = spec.rope_theta ** (-np.arange(half) / half)
    angles = positions[..., None] * frequencies
    if spec.mrope_section:
        axis = np.repeat(np.arange(3), spec.mrope_section)
        chosen = angles[axis, :, np.arange(half)].T
    else:
        chosen = angles[0]
    whole = np.concatenate([chosen, chosen], axis=-1)
    return np.cos(whole).astype(np.float32), np.sin(whole).astype(np.float32)
