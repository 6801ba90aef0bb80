"""What finished results depend on, by the words that a user knows it by: only the same is taken for the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]


def plain(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON gives them back: tuples are lists there."""
    values: dict[str, Any] = json.loads(json.dumps(settings))
    return values


def differing(mine: Settings, found: Settings) -> list[str]:
    """Words of the settings that two results do not have in common."""
    return [name for name in {**mine, **found} if mine.get(name) != found.get(name)]
