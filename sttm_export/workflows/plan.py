"""What was asked for, checked before any work is done."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sttm_export.contracts.graph import (
    ACCUMULATES,
    PRECISIONS,
    Accumulate,
    GraphSpec,
    Precision,
    TensorSpec,
    token_merger_graph,
    vision_encoder_graph,
)
from sttm_export.contracts.merge import MAX_FRAMES, MergeSpec, Thresholds
from sttm_export.contracts.model import ModelSpec
from sttm_export.contracts.target import TargetSpec, find_target
from sttm_export.engines.meminfo import ROOT
from sttm_export.engines.targets import capabilities_for, check_capabilities
from sttm_export.errors import UserError, did_you_mean
from sttm_export.machine.memory import read_memory
from sttm_export.workflows.output import check_output

_WIDTH = {"float32": 4, "float16": 2, "int32": 4, "bool": 1}


@dataclass(frozen=True)
class ExportPlan:
    """Everything `run_export` needs.

    Attributes:
        model: what is exported.
        merge: constants of the token merger.
        precision: of both graphs.
        accumulate: what products of float16 graphs are summed in.
        batch: B, frames a call of the vision encoder.
        thresholds: defaults of the bundle.
        weights: directory or hub id; None with a seed.
        random_seed: seed of random weights; None with weights.
        tower_weights: the tower's own checkpoint, where the model's has none.
        targets: what the rules are checked for and engines are built for.
        capabilities: compute capabilities asked for; empty for the defaults.
        engines: whether to build engines at all.
        clip: video for the validation; None for a synthetic one.
        validation_frames: frames to validate on; 0 for no validation.
        output: the bundle's directory.
        force: whether a bundle at `output` may be replaced.
    """

    model: ModelSpec
    merge: MergeSpec
    precision: Precision
    accumulate: Accumulate
    batch: int
    thresholds: Thresholds
    weights: str | None
    random_seed: int | None
    tower_weights: str | None
    targets: tuple[TargetSpec, ...]
    capabilities: tuple[str, ...]
    engines: bool
    clip: Path | None
    validation_frames: int
    output: Path
    force: bool

    @property
    def encoder_graph(self) -> GraphSpec:
        """Declaration of the vision encoder."""
        return vision_encoder_graph(self.model, self.batch, self.precision)

    @property
    def merger_graph(self) -> GraphSpec:
        """Declaration of the token merger."""
        return token_merger_graph(self.merge, self.precision)


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
    if plan.precision not in PRECISIONS:
        raise UserError(f"Graphs cannot be exported in '{plan.precision}'.{did_you_mean(plan.precision, PRECISIONS)}")
    if plan.accumulate not in ACCUMULATES:
        raise UserError(f"--accumulate has no '{plan.accumulate}'.{did_you_mean(plan.accumulate, ACCUMULATES)}")
    if not 1 <= plan.batch <= MAX_FRAMES:
        raise UserError(f"--batch {plan.batch} is not possible; give the frames per encoder call, 1 to {MAX_FRAMES}.")
    if plan.validation_frames > plan.merge.frames or plan.validation_frames < 0:
        raise UserError(
            f"--validation-frames {plan.validation_frames} is outside 1..{plan.merge.frames}, the frames the merger "
            "takes; give a number in that range."
        )
    check_output(plan.output, plan.force)
    if plan.clip is not None:
        from sttm_export.runtime.probe import probe

        probe(plan.clip)
    check_disk(plan)
    check_memory(plan)


def check_memory(plan: ExportPlan) -> None:
    """Refuse what this machine has no memory for, before it is found out by the kernel."""
    memory = read_memory(ROOT)
    if memory.usable is None:
        return
    free, need = memory.usable + (memory.swap_free or 0), estimate_memory(plan)
    if free < need:
        raise UserError(
            f"The export needs at least {need / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free; give "
            "fewer --frames or a smaller --batch, or export on a machine with more memory."
        )


def estimate_memory(plan: ExportPlan) -> int:
    """Bytes that the export takes at least: the encoder once as weights and once as module in float32, or the merger.

    The pyramid holds 4/3 of the features; the merger keeps it, the summed copy and the output, in eager and in ONNX
    Runtime.
    """
    tower, size = plan.model.tower, plan.model.tower.image_size
    patches = tower.patches_per_side**2
    layer = patches * (4 * tower.hidden_size + 2 * tower.intermediate_size) + tower.heads * patches**2
    encoder = 4 * (2 * encoder_parameters(plan.model) + plan.batch * (layer + 3 * size**2))
    features = 4 * plan.merge.frames * plan.merge.cells * plan.merge.channels
    return max(encoder, 5 * features) + 4 * 3 * size**2 * plan.validation_frames


def check_disk(plan: ExportPlan) -> None:
    """Refuse when the bundle would not fit on the disk."""
    parent = next(folder for folder in (plan.output.parent, *plan.output.parent.parents) if folder.exists())
    free, need = shutil.disk_usage(parent).free, estimate_bytes(plan)
    if free < need:
        raise UserError(
            f"The bundle needs about {need / 2**30:.1f} GiB and {parent.resolve()} has {free / 2**30:.1f} GiB free; "
            "free some space, choose another --output, or leave the engines out with --no-engines."
        )


def estimate_bytes(plan: ExportPlan) -> int:
    """Rough size of the bundle: weights once in ONNX and once in every engine, fixtures, a little over."""
    weights = encoder_parameters(plan.model) * _WIDTH[plan.encoder_graph.inputs[0].dtype]
    copies = sum(len(capabilities_for(t, plan.capabilities)) for t in plan.targets if t.builds_without_gpu)
    fixtures = sum(_tensor_bytes(tensor) for g in (plan.encoder_graph, plan.merger_graph) for tensor in _tensors(g))
    return weights * (1 + copies * plan.engines) + fixtures * bool(plan.validation_frames) + 32 * 2**20


def encoder_parameters(model: ModelSpec) -> int:
    """Parameters of tower and projector, biases and norms left out."""
    tower, width = model.tower, model.tower.hidden_size
    layer = 4 * width * width + 2 * width * tower.intermediate_size
    patches = width * (3 * tower.patch_size**2 + tower.patches_per_side**2)
    out = model.projector.output_size
    return tower.layers * layer + patches + width * out + out * out


def _tensors(graph: GraphSpec) -> tuple[TensorSpec, ...]:
    return graph.inputs + graph.outputs


def _tensor_bytes(tensor: TensorSpec) -> int:
    count = 1
    for side in tensor.shape:
        count *= side
    return count * _WIDTH[tensor.dtype]
