"""The constant matmuls are F.interpolate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm_export.families.llava.resize import BilinearResize, bilinear_weights

# F.interpolate computes source coordinates in float32, so its weights are off by this much times the side; ours are
# rounded once. Values reach about 4.
COORDINATE_EPS = 2**-22


def interpolate(x, side, height, width):
    image = x.transpose(1, 2).reshape(x.shape[0], x.shape[2], side, side)
    image = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
    return image.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("side", "height", "width"), [(27, 14, 14), (4, 3, 3), (5, 2, 7), (1, 1, 1), (1, 3, 2), (6, 13, 1)]
)
def test_equals_interpolate(side, height, width):
    x = torch.randn(2, side * side, 5, generator=torch.Generator().manual_seed(0))
    own, torchs = BilinearResize(side, height, width)(x), interpolate(x, side, height, width)
    assert own.shape == (2, height * width, 5)
    torch.testing.assert_close(own, torchs, atol=4 * COORDINATE_EPS * side, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_weights_equal_interpolate_of_the_identity(source, target):
    identity = torch.eye(source)[:, None, :]
    expected = F.interpolate(identity, size=target, mode="linear", align_corners=False)[:, 0, :].T
    torch.testing.assert_close(
        torch.from_numpy(bilinear_weights(source, target)), expected, atol=COORDINATE_EPS * source, rtol=0
    )


def test_weights_sum_to_one():
    assert abs(bilinear_weights(27, 14).sum(axis=1) - 1).max() < 1e-6


def test_constants_hold_values_when_built_on_the_meta_device():
    with torch.device("meta"):
        resize = BilinearResize(4, 3, 3)
    assert resize.rows.device.type == "cpu"
    assert resize.state_dict() == {}


def test_float16_rounds_only():
    x = torch.rand(1, 27 * 27, 8, generator=torch.Generator().manual_seed(0))
    half = BilinearResize(27, 14, 14).half()(x.half()).float()
    assert (half - interpolate(x, 27, 14, 14)).abs().max() < 3 * 2**-11
