"""Frames of real clips: our pixels and tokens beside those of transformers' own processor and tower."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers_qwen2_vl import model_of, published_features, qwen_state, qwen_tower, relative, tiny_qwen

from sttm_export.families.registry import load_model
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import read_video, uniform_sampler

MOST_PIXELS = 192 * 28 * 28
"""Pixels of a frame where a whole video of 256 frames may have 24,576 tokens: 192 for each of 128 steps."""


@pytest.fixture(scope="module")
def frames():
    return read_video(find_sample_clip("bunny"), uniform_sampler(3)).frames


def processed(frames, size):
    """Patches of single frames [n, P, values], by the processor's own rule of sizes."""
    from transformers import Qwen2VLImageProcessorPil

    made = Qwen2VLImageProcessorPil()(images=list(frames), size=size, return_tensors="pt")
    assert len(set(map(tuple, made["image_grid_thw"].tolist()))) == 1
    return made["pixel_values"].reshape(len(frames), -1, 3, 2, 14, 14), made["image_grid_thw"][0].tolist()


def test_the_models_resolution_and_pixels_are_those_of_the_processor(frames):
    model = load_model("qwen2-vl-7b")
    patches, grid = processed(frames, {"shortest_edge": 128 * 28 * 28, "longest_edge": MOST_PIXELS})
    assert grid == [1, model.pixels.height // 14, model.pixels.width // 14]
    values = torch.from_numpy(pixel_values(frames, model.pixels))
    # [n, 3, gh, 2, 14, gw, 2, 14] → patches by merge windows.
    windows = values.reshape(3, 3, 10, 2, 14, 18, 2, 14).permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(3, 720, 3, 14, 14)
    assert (windows - patches[:, :, :, 0]).abs().max() <= 1e-6


def test_uint8_frames_to_features_equal_transformers(frames):
    """The whole way from decoded frames, none of it shared: an odd number of them, the last of which is repeated."""
    qwen = tiny_qwen(rows=6, columns=12)
    model, state = model_of(qwen), qwen_state(qwen)
    patches, grid = processed(frames, {"shortest_edge": 1, "longest_edge": 8 * 12 * 14 * 14})
    assert grid == [1, 6, 12]
    # Back to frames, window by window, so that the published cutting of videos can be asked.
    images = patches[:, :, :, 0].reshape(3, 3, 6, 2, 2, 3, 14, 14).permute(0, 5, 1, 3, 6, 2, 4, 7)
    expected = published_features(qwen, state, images.reshape(3, 3, 84, 168))
    values = pixel_values(frames, model.pixels, model.frames_per_step)
    assert values.shape == (4, 3, 84, 168)
    assert np.array_equal(values[2], values[3])
    made = qwen_tower(qwen, state)(torch.from_numpy(values))
    assert made.shape == expected.shape == (2, 18, 48)
    assert relative(made, expected) <= 1e-5
