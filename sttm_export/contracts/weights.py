"""Where weights came from, as the manifest states it. No torch here: reports and the command line read it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal


@dataclass(frozen=True)
class WeightSource:
    """Provenance of a model's weights."""

    kind: Literal["checkpoint", "random"]
    identifier: str  # Hub id or directory name; of both repositories where the tower came from its own
    # Over the tensors of all parts (see `combined`); empty until they were read.
    sha256: str = ""
    revision: str | None = None  # Hub commit, where there is one
    seed: int | None = None
    # What could not be checked, as a phrase; empty where all was.
    note: str = ""

    @property
    def is_random(self) -> bool:
        """Whether the numbers that come out mean nothing about any model."""
        return self.kind == "random"

    def describe(self) -> str:
        """Return one phrase for reports: `checkpoint <id> (sha256 …)` or `random weights, seed n`."""
        if self.is_random:
            return f"random weights, seed {self.seed}"
        revision = f" at {self.revision[:12]}" if self.revision else ""
        note = f"; {self.note}" if self.note else ""
        known = f" (sha256 {self.sha256[:16]}…)" if self.sha256 else ""
        return f"checkpoint {self.identifier}{revision}{known}{note}"


def combined(digests: Sequence[str]) -> str:
    """One sha256 for the weights of all parts: that of the only one, or of all of them in order."""
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()
