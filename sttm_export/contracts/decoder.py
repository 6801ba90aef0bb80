"""What a language model is: the sizes of a Qwen2 decoder, as a model file or a manifest has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sttm_export.contracts.records import Range, Size
from sttm_export.errors import UserError


@dataclass(frozen=True)
class DecoderSpec:
    """A Qwen2 decoder; its width is that of its heads together."""

    layers: Annotated[int, Range(1, 1000)]
    heads: Annotated[int, Range(1, 4096)]
    kv_heads: Annotated[int, Range(1, 4096)]
    head_dim: Annotated[int, Range(2, 4096)]  # D, channels of one head
    intermediate_size: Size
    vocabulary: Size
    rope_theta: Annotated[float, Range(0.0, 1e12, above=True)]
    rms_norm_eps: Annotated[float, Range(0.0, 1.0, above=True)]
    # Pairs of channels that turn with time, row and column (M-RoPE); empty: all turn with one position.
    mrope_section: tuple[Size, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no decoder can be; every fault in one message."""
        checks = [
            (self.heads % self.kv_heads == 0, "heads is not a multiple of kv_heads"),
            (self.head_dim % 2 == 0, "head_dim is odd, but channels turn in pairs"),
            (
                not self.mrope_section or 2 * sum(self.mrope_section) == self.head_dim,
                f"mrope_section does not add up to half of a head's {self.head_dim} channels",
            ),
            (len(self.mrope_section) in (0, 3), "mrope_section must have three numbers: time, row, column"),
        ]
        if faults := [message for good, message in checks if not good]:
            raise UserError(f"no decoder can be like this: {'; '.join(faults)}.")

    @property
    def hidden_size(self) -> int:
        """C, width of the residual stream."""
        return self.heads * self.head_dim

    @property
    def queries_per_key(self) -> int:
        """Query heads that share one head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: projections with the biases of q, k and v, MLP, two norms."""
        width, keys = self.hidden_size, self.kv_heads * self.head_dim
        attention = 2 * width * width + 2 * keys * width + width + 2 * keys
        return attention + 3 * width * self.intermediate_size + 2 * width
