"""What was asked of `calibrate`, checked before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.bundle.opened import bundle_around
from sttm_export.contracts.calibration import read_calibration
from sttm_export.contracts.decoding import Decoding
from sttm_export.contracts.merge import MergeSpec, Thresholds
from sttm_export.contracts.model import MAX_FPS, ModelSpec
from sttm_export.contracts.recipe import Recipe
from sttm_export.errors import UserError
from sttm_export.files.whole import check_not_input, check_writable

# Bytes; `.<name>.partial-<process>` must be a name, too.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Request:
    """A calibration."""

    model: ModelSpec
    weights: str | None  # directory or hub id; None with a seed
    random_seed: int | None  # seed of random weights; None with weights
    tower_weights: str | None  # the tower's own checkpoint, where the model's has none
    clips: tuple[Path, ...]  # files, directories, lists
    budgets: tuple[float, ...]
    steps: int  # T of the token merger
    fps: float | None  # frames a second to sample; None for the model's
    decoding: Decoding | None  # with a merge layer above 0: the layers below it
    output: Path
    force: bool  # whether a calibration, or clips of another one that was not finished, may be replaced

    @property
    def merges(self) -> list[MergeSpec]:
        """Constants of a merger for each budget, the largest first; a budget counts once."""
        model, budgets = self.model, sorted(set(self.budgets), reverse=True)
        sizes = self.steps, model.grid.height, model.grid.width, model.channels
        return [MergeSpec(*sizes, budget, root_level=model.merging.root_level) for budget in budgets]

    @property
    def recipe(self) -> Recipe:
        """Of what is run: float32, one step a call."""
        row = self.model.published_thresholds(self.budgets[0])
        thresholds = Thresholds(row.spatial, row.temporal, "")
        return Recipe(self.model, self.merges[0], thresholds, "fp32", "fp32", self.model.frames_per_step, self.decoding)


def check_request(request: Request) -> None:
    """Refuse what cannot work: a budget too small for the frames, a rate, an output in the way.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    _ = request.merges
    if request.fps is not None and not 0 < request.fps <= MAX_FPS:
        raise UserError(
            f"--fps {request.fps:g} is not possible; give frames a second, above 0 and at most {MAX_FPS:g}."
        )
    check_output(request.output, request.force)


def check_output(output: Path, force: bool) -> None:
    """Refuse an output that is in the way or cannot be written.

    Raises:
        UserError: it exists without `force`, or is no calibration, or would lie in a bundle.
    """
    elsewhere = "choose another --output"
    if output.name in {"", ".."}:
        raise UserError(f"--output {output} is a directory; give the name of a file.")
    if len(os.fsencode(output.name)) > _LONGEST_NAME:
        raise UserError(f"The name {output.name[:40]}… is too long; {elsewhere} of at most {_LONGEST_NAME} bytes.")
    check_writable(output, "--output")
    if (around := bundle_around(output)) is not None:
        raise UserError(f"--output {output} would lie in the bundle {around}, which holds nothing else; {elsewhere}.")
    if output.exists() and not force:
        raise UserError(f"{output} exists already; {elsewhere}, or replace it with --force.")
    if output.exists():
        try:
            read_calibration(output)
        except UserError as error:
            raise UserError(
                f"{output} exists and cannot be read as a calibration, so --force does not replace it; {elsewhere}, or "
                "remove it."
            ) from error


def check_apart(output: Path, clips: Sequence[Path], given: Sequence[Path]) -> None:
    """Refuse an output that is a clip or a list of clips."""
    inputs = [(f"the clip {path}", path) for path in clips]
    check_not_input(output, "--output", inputs + [(f"the list {path}", path) for path in given if path.is_file()])
