"""Calibrations of tiny encoders by the API that `sttm-export calibrate` calls, and towers with outlier channels."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import torch
from helpers_networks import tiny_model, tiny_pixels, tiny_recipe

from sttm_export.contracts.calibration import CalibratedClip, Calibration, ThresholdChoice
from sttm_export.families.registry import parts_of
from sttm_export.quantization.ranges import choose_range, choose_ranges
from sttm_export.quantization.statistics import collecting
from sttm_export.weights.checkpoint import digest

KEY = sha256(b"a clip").hexdigest()


def encoder(model=None, precision="fp32", ranges=(), batch=2):
    """The part of a tiny model's vision encoder."""
    return parts_of(replace(tiny_recipe(model or tiny_model(), precision=precision, batch=batch), ranges=ranges))[0]


def watch(part, state, *batches):
    """Statistics of the float encoder over some batches, and its features of the last."""
    module = part.module(state).float()
    with torch.no_grad(), collecting(module, part.points) as collector:
        features = [module(pixels) for pixels in batches][-1]
    return collector.finish(KEY), features


def calibrate(model, state, *batches):
    """Ranges of all points of a model with these weights."""
    part = encoder(model)
    statistics, _ = watch(part, state, *(batches or (tiny_pixels(model, 2, 1), tiny_pixels(model, 2, 2))))
    return choose_ranges(statistics, state, part.points)


def calibrate_without(model, state, pixels):
    """The same calibration if nothing could take up a power of two."""
    part = encoder(model)
    statistics, _ = watch(part, state, pixels)
    rows = []
    for point in part.points:
        seen = statistics.points[point.name]
        together = replace(seen, counts=seen.counts.sum(0, keepdims=True))
        weight = torch.cat([state[name].reshape(-1, point.width) for name in point.weights])
        rows.append(choose_range(replace(point, absorber=None), together, weight))
    return rows


def calibration_of(model, state, ranges):
    """The file's content."""
    clips = (CalibratedClip("a.mp4", KEY, 4),)
    thresholds = (ThresholdChoice(0.5, 4, 0, 0.85, 0.65, 0.2, 0.85, 0.2, ()),)
    return Calibration("sttm-export, a test", model.name, digest(state), clips, tuple(ranges), thresholds)


def with_outliers(state, norms, factor=40.0, channels=2):
    """The same function with a few channels behind some norms so many times larger, their readers' weights smaller.

    Args:
        state: float32.
        norms: name of a norm → the Linears that read it.
    """
    planted = {name: tensor.clone() for name, tensor in state.items()}
    for number, (norm, readers) in enumerate(norms.items()):
        generator = torch.Generator().manual_seed(number)
        chosen = torch.randperm(len(state[f"{norm}.weight"]), generator=generator)[:channels]
        for kind in ("weight", "bias"):
            planted[f"{norm}.{kind}"][chosen] *= factor
        for reader in readers:
            planted[f"{reader}.weight"][:, chosen] /= factor
    return planted


def siglip_norms(layers):
    """Norms of a SigLIP tower with what reads them."""
    norms = {}
    for layer in (f"tower.layers.{index}" for index in range(layers)):
        norms[f"{layer}.layer_norm1"] = [f"{layer}.self_attn.{name}_proj" for name in "qkv"]
        norms[f"{layer}.layer_norm2"] = [f"{layer}.mlp.fc1"]
    return norms


def relative(made, expected):
    """Norm of the difference over the norm of what is expected."""
    return float((made.double() - expected.double()).norm() / expected.double().norm())
