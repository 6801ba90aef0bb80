"""The player of a report: a clip's frames with their tokens, stepped through by a script that stands in the page.

The page allows this one script, by its hash, and nothing from elsewhere: whatever text a report holds can run nothing
and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sttm_export.contracts.model import GridSpec
from sttm_export.runtime.colors import PALETTE, group_colors
from sttm_export.runtime.merged import MergedTokens
from sttm_export.runtime.paint import LEFT, SHADE, TINT

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class ShownClip:
    """What the player shows."""

    pictures: list[str]  # [T'] data URIs
    labels: list[str]  # [T'] the time of each frame, for people
    merged: MergedTokens
    grid: GridSpec
    size: tuple[int, int]  # width and height of a frame, for its form

    def to_json(self) -> dict[str, Any]:
        """Plain values: of tokens their number is their place in each list."""
        tokens = self.merged
        colors: NDArray[np.integer] = group_colors(tokens.assignment, self.grid.width)
        return {
            "frames": [{"src": src, "label": label} for src, label in zip(self.pictures, self.labels, strict=True)],
            "grid": [self.grid.height, self.grid.width],
            "size": list(self.size),
            "assignment": tokens.assignment.tolist(),
            "boxes": tokens.token_box.tolist(),
            "colors": colors.tolist(),
            "budget": tokens.max_tokens,
            "palette": list(PALETTE),
            "shade": list(SHADE),
            "left": LEFT,
            "tint": TINT,
        }


def embedded_json(value: Any) -> Markup:
    """Return JSON that may stand inside a script element: it cannot end it, whatever texts it holds.

    Raises:
        ValueError: a number that is not finite, which JSON does not have.
    """
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def player_script() -> tuple[Markup, str]:
    """Return the script, and the policy of a page that may run it and nothing else."""
    from markupsafe import Markup

    script = (TEMPLATES / "player.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    rules = ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'")
    return Markup(script), "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))
