"""One of N parts of a corpus: which one a video belongs to is told by its name alone."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from sttm_export.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, counted from 1.

    A hash decides, not the place in a listing: jobs that list a directory at different times, while files come and go,
    still leave none out and do none twice.
    """

    number: int = 1
    of: int = 1

    def __contains__(self, name: str) -> bool:
        """Whether a video of this name, see `Found.name`, is in this part."""
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1


def read_shard(text: str) -> Shard:
    """Return what `I/N` means.

    Raises:
        UserError: it is not of that form, or not 1 <= I <= N.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match:
        number, of = int(match[1]), int(match[2])
        if 1 <= number <= of:
            return Shard(number, of)
    raise UserError(f"--shard {text} is not possible; give I/N with I from 1 to N, such as 3/32.")
