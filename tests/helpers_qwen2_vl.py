"""Tiny Qwen2-VL models, their weights, and `transformers`' own code around the tower."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from sttm_export.contracts.model import (
    GridSpec,
    MergingDefaults,
    ModelSpec,
    PixelSpec,
    PublishedThresholds,
    SamplingSpec,
)
from sttm_export.families.modules import build_module
from sttm_export.families.qwen2_vl.architecture import Qwen2VL, TowerSpec
from sttm_export.families.qwen2_vl.checkpoint import distribution, parameter_shapes
from sttm_export.families.qwen2_vl.tower import VisionTower
from sttm_export.weights.random import RandomWeights

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def tiny_qwen(*, rows: int = 4, columns: int = 6, channels: int = 48, **tower: int) -> Qwen2VL:
    """4×6 patches of 14 pixels, 2×3 tokens, two blocks."""
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 14, "temporal_patch_size": 2}
    sizes |= {"spatial_merge_size": 2, "mlp_ratio": 2} | tower
    return Qwen2VL(TowerSpec(**sizes), rows, columns, channels)


def model_of(qwen: Qwen2VL, **changes: object) -> ModelSpec:
    """A model of the same form as models/*.toml."""
    tower = qwen.tower
    height, width = qwen.rows * tower.patch_size, qwen.columns * tower.patch_size
    fields = {
        "name": "tiny-qwen",
        "title": "Tiny Qwen",
        "hub_id": "example/tiny-qwen",
        "family": "qwen2-vl",
        "channels": qwen.channels,
        "pixels": PixelSpec(height, width, MEAN, STD),
        "grid": GridSpec(qwen.rows // tower.spatial_merge_size, qwen.columns // tower.spatial_merge_size),
        "architecture": {"tower": dict(vars(tower))},
        "sampling": SamplingSpec(2.0, 16),
        "merging": MergingDefaults(
            1, 2, "representative", (PublishedThresholds(0.5, 0.8, 0.65), PublishedThresholds(0.3, 0.75, 0.5))
        ),
        "frames_per_step": tower.temporal_patch_size,
    }
    return ModelSpec(**fields | changes)


def qwen_state(qwen: Qwen2VL, seed: int = 0) -> dict[str, Tensor]:
    """Random weights, float32."""
    weights = RandomWeights(partial(distribution, model_of(qwen)), seed).read(parameter_shapes(qwen))
    return {name: tensor.float() for name, tensor in weights.items()}


def qwen_tower(qwen: Qwen2VL, state: dict[str, Tensor], precision: str = "fp32") -> VisionTower:
    """The exported module with these weights."""
    return build_module(partial(VisionTower, qwen), state, precision)


def qwen_pixels(qwen: Qwen2VL, steps: int = 2, seed: int = 0) -> Tensor:
    """Smooth random frames [B, 3, H, W], no two alike: neighbouring patches resemble each other, as in video."""
    coarse = torch.rand(steps * qwen.tower.temporal_patch_size, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    size = (qwen.rows * qwen.tower.patch_size, qwen.columns * qwen.tower.patch_size)
    return torch.nn.functional.interpolate(coarse * 4 - 2, size=size, mode="bilinear", align_corners=False)


@cache
def published_patchify():
    """`Qwen2VLVideoProcessor.patchify`, compiled alone: its module imports torchvision, this function needs none."""
    path = importlib.util.find_spec("transformers.models.qwen2_vl.video_processing_qwen2_vl").origin
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "patchify"]
    scope = {"torch": torch}
    exec(compile(ast.Module(functions, []), path, "exec"), scope)
    return partial(scope["patchify"], None)


def published_tower(qwen: Qwen2VL, state: dict[str, Tensor]):
    """`transformers`' tower in the plainest way there is: made, loaded, called."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(**vars(qwen.tower), hidden_size=qwen.channels)
    module = Qwen2VisionTransformerPretrainedModel(config).eval()
    module.load_state_dict(state)
    return module


def published_features(qwen: Qwen2VL, state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """What `transformers` makes of frames [B, 3, H, W]: its processor's patches through its tower; [S, N, C]."""
    tower = qwen.tower
    patches, *grid = published_patchify()(
        pixels[None],
        patch_size=tower.patch_size,
        merge_size=tower.spatial_merge_size,
        temporal_patch_size=tower.temporal_patch_size,
    )
    with torch.no_grad():
        made = published_tower(qwen, state)(patches[0], grid_thw=torch.tensor([grid])).pooler_output
    return made.reshape(grid[0], -1, qwen.channels)


def relative(a: Tensor, b: Tensor) -> float:
    """Relative error in the Frobenius norm."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()
