"""Choosing the next token: the likeliest, or one drawn by chance that a seed repeats.

Rules, each with its reason:
1. Temperature, then top-k, then top-p of what top-k leaves, as the published implementation has them.
2. Tokens as likely as the k-th stay with it. Of equally likely tokens at the edge of top-p the lower ids stay.
3. float64, and one number of PCG64 for each token: it is the same on every machine, and only a draw that falls on the
   last bits of a sum can differ.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sttm_export.errors import UserError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
_LARGEST_SEED = 2**63 - 1


def greedy(logits: Floats) -> int:
    """The likeliest token; of equally likely ones the lowest id.

    Raises:
        UserError: logits that are no numbers.
    """
    return int(_sound(logits).argmax())


class Sampler:
    """Draws tokens.

    Args:
        temperature: above 0; 1 leaves the model's probabilities as they are, less makes likely tokens likelier.
        top_k: only so many likeliest tokens; 0 for all.
        top_p: only the likeliest tokens that have this probability together; 1 for all.
        seed: 0 to 2^63 - 1.

    Raises:
        UserError: a value that is none of these.
    """

    def __init__(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise UserError(
                f"The temperature {temperature} cannot be drawn with; give one above 0, or no sampling at all for the "
                "likeliest token each time."
            )
        if top_k < 0:
            raise UserError(f"top-k {top_k} is no number of tokens; give 1 or more, or 0 for all of them.")
        if not 0 < top_p <= 1:
            raise UserError(f"top-p {top_p} is no share; give one above 0 and at most 1, which takes all tokens.")
        if not 0 <= seed <= _LARGEST_SEED:
            raise UserError(f"The seed {seed} is none; give a number from 0 to {_LARGEST_SEED}.")
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._chance = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, logits: Floats) -> int:
        """Draw a token by its logit, [V].

        Raises:
            UserError: logits that are no numbers.
        """
        shares = self.probabilities(logits)
        ends = np.cumsum(shares)
        # The first end above the draw is never that of a token without probability.
        return int(np.searchsorted(ends, self._chance.random() * ends[-1], side="right"))

    def probabilities(self, logits: Floats) -> Doubles:
        """Return the probability with which each token is drawn, [V]; 0 for those that are left out."""
        wide = _sound(logits).astype(np.float64)
        with np.errstate(over="ignore"):  # a tiny temperature takes all but the likeliest to -inf, rightly
            wide = (wide - wide.max()) / self._temperature
        if 0 < self._top_k < len(wide):
            edge = np.partition(wide, -self._top_k)[-self._top_k]
            wide = np.where(wide >= edge, wide, -np.inf)
        shares = _normalized(np.exp(wide))
        return shares if self._top_p == 1 else _normalized(np.where(_nucleus(shares, self._top_p), shares, 0.0))


def _nucleus(shares: Doubles, top_p: float) -> NDArray[np.bool_]:
    """Mask of the fewest tokens that have `top_p` together; the one that reaches it is among them."""
    # Tokens below half of an equal share of what may be left out cannot be among them: all of those together are less
    # than it. So a few hundred are sorted, not a whole vocabulary.
    able = np.flatnonzero(shares >= (1 - top_p) / (2 * len(shares)))
    order = able[np.argsort(-shares[able], kind="stable")]
    sorted_shares = shares[order]
    mask = np.zeros(len(shares), np.bool_)
    mask[order[np.cumsum(sorted_shares) - sorted_shares < top_p]] = True
    return mask


def _normalized(weights: Doubles) -> Doubles:
    return weights / weights.sum()  # type: ignore[no-any-return]


def _sound(logits: Floats) -> Floats:
    """Refuse what no token can be chosen by; -inf is a token that is ruled out."""
    best = logits.max()  # NaN where there is one
    if not np.isfinite(best):
        raise UserError(
            f"The language model's largest logit is {best}, so no token can be chosen; "
            "check the bundle with `sttm-export validate`."
        )
    return logits
