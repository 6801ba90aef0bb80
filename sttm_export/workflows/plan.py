"""What was asked for, checked before any work is done."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sttm_export.contracts.graph import ACCUMULATES, FLOAT_OF, PRECISIONS, STORAGE
from sttm_export.contracts.merge import MAX_FRAMES, MergeSpec, Thresholds
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.recipe import Recipe
from sttm_export.contracts.target import TargetSpec, find_target
from sttm_export.engines.build import capabilities_for, check_capabilities
from sttm_export.errors import UserError, did_you_mean
from sttm_export.families.part import Part
from sttm_export.families.registry import parts_of
from sttm_export.system import read_memory, size_text
from sttm_export.workflows.output import check_output


@dataclass(frozen=True)
class ExportPlan:
    """Everything `run_export` needs."""

    recipe: Recipe
    weights: str | None  # directory or hub id; None with a seed
    random_seed: int | None  # seed of random weights; None with weights
    tower_weights: str | None  # the tower's own checkpoint, where the model's has none
    targets: tuple[TargetSpec, ...]  # what the rules are checked for and engines are built for
    capabilities: tuple[str, ...]  # compute capabilities asked for; empty for the defaults
    engines: bool  # whether to build engines at all
    clip: Path | None  # video for the validation; None for a synthetic one
    validation_frames: int  # frames to validate on; 0 for no validation
    output: Path  # the bundle's directory
    force: bool  # whether a bundle at `output` may be replaced

    @property
    def model(self) -> ModelSpec:
        """What is exported."""
        return self.recipe.model

    @property
    def merge(self) -> MergeSpec:
        """Constants of the token merger."""
        return self.recipe.merge

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Parts of the model, built once; the options must have been checked."""
        return parts_of(self.recipe)


def default_output(model: ModelSpec, budget: float, frames: int, precision: str) -> Path:
    """`llava-video-7b-t32-b0.5-fp16` in the working directory."""
    return Path(f"{model.name}-t{frames}-b{budget:g}-{precision}")


def pick_thresholds(model: ModelSpec, budget: float, spatial: float | None, temporal: float | None) -> Thresholds:
    """Take the given thresholds, and the published row of the nearest budget for what is not given."""
    row = model.published_thresholds(budget)
    for name, value in (("spatial", spatial), ("temporal", temporal)):
        if value is not None and not -1.0 <= value <= 1.0:
            raise UserError(f"--{name}-threshold {value:g} is no cosine; give a number from -1 to 1.")
    parts = [
        f"{name} given" if value is not None else f"{name} published for a budget of {row.budget:g}"
        for name, value in (("spatial", spatial), ("temporal", temporal))
    ]
    return Thresholds(
        row.spatial if spatial is None else spatial, row.temporal if temporal is None else temporal, ", ".join(parts)
    )


def pick_targets(names: Sequence[str], capabilities: Sequence[str], precision: str) -> tuple[TargetSpec, ...]:
    """Look targets up and refuse what they do not have."""
    targets = tuple(find_target(name) for name in dict.fromkeys(names))
    check_capabilities(targets, capabilities)
    # Before `check_plan`: that the hardware lacks a precision says more than that this program does not export it.
    for target in targets:
        target.check_precision(precision)
    return targets


def check_plan(plan: ExportPlan) -> None:
    """Refuse what cannot work, before any work: precision, batch, output, clip, disk.

    Raises:
        UserError: one sentence for the first thing that is wrong.
    """
    recipe, step = plan.recipe, plan.model.frames_per_step
    if recipe.precision not in PRECISIONS:
        raise UserError(
            f"Graphs cannot be exported in '{recipe.precision}'.{did_you_mean(recipe.precision, PRECISIONS)}"
        )
    if recipe.accumulate not in ACCUMULATES:
        raise UserError(f"--accumulate has no '{recipe.accumulate}'.{did_you_mean(recipe.accumulate, ACCUMULATES)}")
    if not 1 <= recipe.batch <= MAX_FRAMES:
        raise UserError(f"--batch {recipe.batch} is not possible; give the frames per encoder call, 1 to {MAX_FRAMES}.")
    if recipe.batch % step:
        raise UserError(
            f"--batch {recipe.batch} is no multiple of the {step} frames that {plan.model.title} takes a step."
        )
    most = plan.merge.frames * step
    if plan.validation_frames > most or plan.validation_frames < 0:
        raise UserError(
            f"--validation-frames {plan.validation_frames} is outside 1..{most}, the frames the merger takes; give a "
            "number in that range."
        )
    check_output(plan.output, plan.force)
    if plan.clip is not None:
        from sttm_export.runtime.probe import probe

        probe(plan.clip)
    check_disk(plan)
    check_memory(plan)


def check_memory(plan: ExportPlan) -> None:
    """Refuse what this machine has no memory for, before it is found out by the kernel."""
    memory = read_memory()
    if memory.usable is None:
        return
    free, need = memory.usable + (memory.swap_free or 0), estimate_memory(plan)
    if free < need:
        raise UserError(
            f"The export needs at least {size_text(need)} of memory and {size_text(free)} are free; give "
            "fewer --frames or a smaller --batch, or export on a machine with more memory."
        )


def estimate_memory(plan: ExportPlan) -> int:
    """Bytes that the export takes at least: of its largest part once as weights and once as module in float32."""
    pixels = plan.model.pixels
    largest = max(4 * 2 * part.parameters + part.activations for part in plan.parts)
    return largest + 4 * 3 * pixels.height * pixels.width * plan.validation_frames


def check_disk(plan: ExportPlan) -> None:
    """Refuse when the bundle would not fit on the disk."""
    parent = next(folder for folder in (plan.output.parent, *plan.output.parent.parents) if folder.exists())
    free, need = shutil.disk_usage(parent).free, estimate_bytes(plan)
    if free < need:
        raise UserError(
            f"The bundle needs about {size_text(need)} and {parent.resolve()} has {size_text(free)} free; "
            "free some space, choose another --output, or leave the engines out with --no-engines."
        )


def estimate_bytes(plan: ExportPlan) -> int:
    """Rough size of the bundle: weights once in ONNX and once in every engine, fixtures, a little over."""
    weights = sum(part.parameters for part in plan.parts) * STORAGE[FLOAT_OF[plan.recipe.precision]].nbytes
    copies = sum(len(capabilities_for(t, plan.capabilities)) for t in plan.targets if t.builds_without_gpu)
    tensors = [tensor for part in plan.parts for tensor in part.graph.inputs + part.graph.outputs]
    fixtures = sum(tensor.nbytes for tensor in tensors)
    return weights * (1 + copies * plan.engines) + fixtures * bool(plan.validation_frames) + 32 * 2**20
