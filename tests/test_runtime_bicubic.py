"""The resize for machines without Pillow, held to Pillow bit by bit."""

import sys
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from sttm_export.contracts.model import PixelSpec
from sttm_export.runtime import preprocess
from sttm_export.runtime.bicubic import resize_bicubic

SIDE = st.integers(1, 70)


def by_pillow(image, width, height):
    """Columns first, whatever the version."""
    return np.asarray(
        Image.fromarray(image).resize((width, len(image)), Image.BICUBIC).resize((width, height), Image.BICUBIC)
    )


def picture(height, width, seed, hard):
    """Noise, or black and white, which overshoots on both sides."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 2, (height, width, 3)) * 255 if hard else rng.integers(0, 256, (height, width, 3))).astype(
        np.uint8
    )


@settings(max_examples=300, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 2**32 - 1), st.booleans())
@example(1, 1, 1, 1, 0, False)
@example(1, 1, 70, 70, 0, False)
@example(70, 70, 1, 1, 0, True)
@example(1, 70, 70, 1, 0, True)
@example(27, 27, 27, 27, 0, False)
@example(27, 64, 27, 8, 0, True)
@example(64, 27, 8, 27, 0, True)
def test_every_size_equals_pillow(height, width, new_height, new_width, seed, hard):
    image = picture(height, width, seed, hard)
    before = image.copy()
    found = resize_bicubic(image, new_width, new_height)
    assert found.dtype == np.uint8 and found.flags["C_CONTIGUOUS"] and not np.shares_memory(found, image)
    np.testing.assert_array_equal(found, by_pillow(image, new_width, new_height))
    np.testing.assert_array_equal(image, before)
    if int(version("pillow").split(".")[0]) < 13:
        whole = Image.fromarray(image).resize((new_width, new_height), Image.BICUBIC)
        np.testing.assert_array_equal(found, np.asarray(whole))


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(1080, 1920, 384), (1920, 1080, 384), (480, 640, 224), (97, 3001, 252), (60, 80, 384), (384, 384, 384)],
)
def test_frames_of_cameras_equal_pillow(height, width, side):
    for hard in (False, True):
        image = picture(height, width, 7, hard)
        np.testing.assert_array_equal(resize_bicubic(image, side, side), by_pillow(image, side, side))


def test_a_view_of_a_larger_array_is_read_as_it_is():
    large = picture(40, 50, 3, False)
    for view in (large[::2, ::-1], large[:, 5:31, ::-1], large.transpose(1, 0, 2)):
        np.testing.assert_array_equal(resize_bicubic(view, 9, 13), by_pillow(np.ascontiguousarray(view), 9, 13))


@pytest.mark.parametrize("without", [False, True])
def test_columns_come_first_with_any_pillow_and_without(monkeypatch, without):
    """As Pillow 10.1, 11.3 and 12.0 give it; 13 goes over the rows first here and has 97, 139, 107, 149 in between."""
    if without:
        monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setattr(preprocess, "_resize", preprocess._resize.__wrapped__)
    tall = (np.arange(63).reshape(7, 3, 3) * 37 % 256).astype(np.uint8)
    found = preprocess.resized(tall, PixelSpec(3, 2, (0.5,) * 3, (0.5,) * 3))
    assert found.tolist() == [
        [[84, 126, 119], [128, 102, 95]],
        [[136, 98, 140], [106, 148, 110]],
        [[151, 144, 118], [127, 120, 162]],
    ]
    assert (preprocess._resize() is resize_bicubic) == without
