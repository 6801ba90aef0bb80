"""Where weights came from, as the manifest states it. No torch here: reports and the command line read it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WeightSource:
    """Provenance of a canonical state.

    Attributes:
        kind: `checkpoint` or `random`.
        identifier: hub id or directory name; of both repositories when the tower came from its own.
        revision: hub commit, when there is one.
        sha256: of the tensors in canonical order (see `checkpoint.digest`).
        seed: of random weights.
        note: what could not be checked, as a phrase; empty where all was.
    """

    kind: Literal["checkpoint", "random"]
    identifier: str
    sha256: str
    revision: str | None = None
    seed: int | None = None
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
        return f"checkpoint {self.identifier}{revision} (sha256 {self.sha256[:16]}…){note}"
