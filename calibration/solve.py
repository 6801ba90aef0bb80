"""Which thresholds policy `budget` solves, clip by clip; what `solved.toml` is made with.

Run from the repository: `python -m calibration.solve FEATURES.npz … --output solved.toml`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sttm_export.contracts.merge import MergeSpec
from sttm_export.errors import UserError

BUDGETS = (0.5, 0.3, 0.15)


@dataclass(frozen=True)
class Solved:
    """One row: what was given, and what the budget policy made of it.

    Attributes:
        clip: features file, without suffix.
        frames: frames that counted.
        budget: share of the tokens.
        given_spatial: spatial threshold asked for; the solved one is never below.
        spatial: solved.
        temporal: solved.
        tokens: tokens kept.
        max_tokens: K.
    """

    clip: str
    frames: int
    budget: float
    given_spatial: float
    spatial: float
    temporal: float
    tokens: int
    max_tokens: int

    def to_toml(self) -> str:
        """One `[[solved]]` table."""
        values = {key: f'"{value}"' if key == "clip" else repr(value) for key, value in vars(self).items()}
        return "\n".join(["[[solved]]", *(f"{key} = {value}" for key, value in values.items())]) + "\n"


def solve_features(path: Path, budgets: Iterable[float], spatial: float | None) -> Iterator[Solved]:
    """Solve for a features file: `features` [T, C, H, W], and the constants and thresholds it was made with.

    A budget that cannot hold one frame's tokens is left out.

    Args:
        path: an .npz such as those of tests/golden.
        budgets: shares of the T·N tokens.
        spatial: the spatial threshold to give; None for the file's own.

    Raises:
        UserError: not such a file.
    """
    data = _load(path)
    features = data["features"].astype(np.float32)
    given = round(float(data["spatial_threshold"]) if spatial is None else spatial, 6)
    constants: dict[str, Any] = {
        "root_level": int(data["root_level"]),
        "weighted_avg": bool(data["weighted_avg"]),
        "head_dim": int(data["head_dim"]),
    }
    frames, channels, height, width = features.shape
    for budget in budgets:
        if budget * frames >= 1:
            spec = MergeSpec(frames, height, width, channels, budget, **constants)
            yield _solve(path.stem, features, spec, given)


def _solve(clip: str, features: np.ndarray[Any, Any], spec: MergeSpec, given: float) -> Solved:
    import torch

    from sttm_export.merging.static import TokenMerger

    cells = torch.from_numpy(features).flatten(2).transpose(1, 2)
    frames = torch.tensor(spec.frames, dtype=torch.int32)
    with torch.inference_mode():
        _, count, _, _, _, applied, *_ = TokenMerger(spec)(cells, frames, torch.tensor(given), torch.tensor(0.0))
    spatial, temporal = (round(float(value), 7) for value in applied)
    return Solved(clip, spec.frames, spec.budget, given, spatial, temporal, int(count), spec.max_tokens)


def _load(path: Path) -> dict[str, Any]:
    needed = ("features", "spatial_threshold", "root_level", "weighted_avg", "head_dim")
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in needed}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a features file ({error}); give an .npz with {', '.join(needed)}.") from error


def main(arguments: list[str] | None = None) -> int:
    """Solve and print (or write) TOML; 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m calibration.solve", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("clips", nargs="+", help="features files")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--spatial", type=float, help="spatial threshold to give in place of the clip's own")
    parser.add_argument("--output", type=Path, help="append here instead of printing")
    options = parser.parse_args(arguments)
    try:
        rows = [row for clip in options.clips for row in solve_features(Path(clip), options.budgets, options.spatial)]
        text = "\n".join(row.to_toml() for row in rows)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.output:
        before = options.output.read_text(encoding="utf-8") + "\n" if options.output.is_file() else ""
        options.output.write_text(before + text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
