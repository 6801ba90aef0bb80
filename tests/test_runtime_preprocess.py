import numpy as np
import pytest

from sttm_export.contracts.model import PixelSpec
from sttm_export.errors import UserError
from sttm_export.runtime import preprocess
from sttm_export.runtime.bicubic import resize_bicubic
from sttm_export.runtime.preprocess import normalized, pixel_values
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import read_video, uniform_sampler


def square(side):
    return PixelSpec(side, side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_channels_have_their_own_mean_and_deviation_and_steps_are_filled():
    frame = np.zeros((10, 20, 3), np.uint8)
    frame[..., 2] = 255
    values = pixel_values([frame, frame, frame], PixelSpec(4, 8, (0.5, 0.0, 0.25), (0.5, 1.0, 0.25)), 2)
    assert values.shape == (4, 3, 4, 8)
    assert np.unique(values[:, 0]) == [-1.0]
    assert np.unique(values[:, 1]) == [0.0]
    assert np.unique(values[:, 2]) == [3.0]


@pytest.mark.parametrize("name", ["carphone", "bikes"])
def test_equal_to_the_published_processor(name):
    transformers = pytest.importorskip("transformers")
    frames = read_video(find_sample_clip(name), uniform_sampler(2)).frames
    processor = transformers.SiglipImageProcessorPil(size={"height": 384, "width": 384})
    expected = processor(images=list(frames), return_tensors="np")["pixel_values"]
    assert np.abs(pixel_values(frames, square(384)) - expected).max() <= 1e-6


def test_shape_range_and_layout():
    frame = np.zeros((10, 20, 3), np.uint8)
    frame[..., 0] = 255
    values = pixel_values([frame, frame], square(8))
    assert values.shape == (2, 3, 8, 8)
    assert values.dtype == np.float32
    assert values.flags["C_CONTIGUOUS"]
    assert np.all(values[:, 0] == 1.0)
    assert np.all(values[:, 1:] == -1.0)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frames"),
        ([np.zeros((4, 4, 3), np.float32)], "uint8 RGB"),
        ([np.zeros((4, 4), np.uint8)], "uint8 RGB"),
        ([np.zeros((4, 4, 4), np.uint8)], "uint8 RGB"),
        ([np.zeros((0, 4, 3), np.uint8)], "uint8 RGB"),
    ],
)
def test_errors(frames, message):
    with pytest.raises(UserError, match=message):
        pixel_values(frames, square(8))


def test_normalizing_is_elementwise_arithmetic():
    """Through a table of 256 values, and the same float32 numbers as computed for each pixel."""
    pixels = PixelSpec(16, 16, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    image = np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    scaled = (image / 255.0).astype(np.float32)
    expected = ((scaled - np.float32(pixels.mean)) / np.float32(pixels.std)).transpose(2, 0, 1)
    found = normalized(image, pixels)
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(pixel_values([image], pixels)[0], found)


def test_without_pillow_the_numbers_are_the_same(monkeypatch):
    frames = read_video(find_sample_clip("bikes"), uniform_sampler(2)).frames
    with_pillow = pixel_values(frames, square(384))
    monkeypatch.setattr(preprocess, "_resize", lambda: resize_bicubic)
    np.testing.assert_array_equal(pixel_values(frames, square(384)), with_pillow)
