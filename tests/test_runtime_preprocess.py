import numpy as np
import pytest

from sttm_export.errors import UserError
from sttm_export.runtime.preprocess import pixel_values
from sttm_export.runtime.sample_clips import find_sample_clip
from sttm_export.runtime.video import read_video, uniform_sampler


@pytest.mark.parametrize("name", ["carphone", "bikes"])
def test_equal_to_the_published_processor(name):
    transformers = pytest.importorskip("transformers")
    frames = read_video(find_sample_clip(name), uniform_sampler(2)).frames
    processor = transformers.SiglipImageProcessorPil(size={"height": 384, "width": 384})
    expected = processor(images=list(frames), return_tensors="np")["pixel_values"]
    assert np.abs(pixel_values(frames, 384) - expected).max() <= 1e-6


def test_shape_range_and_layout():
    frame = np.zeros((10, 20, 3), np.uint8)
    frame[..., 0] = 255
    values = pixel_values([frame, frame], 8)
    assert values.shape == (2, 3, 8, 8) and values.dtype == np.float32 and values.flags["C_CONTIGUOUS"]
    assert np.all(values[:, 0] == 1.0) and np.all(values[:, 1:] == -1.0)


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
        pixel_values(frames, 8)
