"""What is measured with is deterministic and looks like real video."""

import helpers_rooms  # noqa: F401
import numpy as np
import pytest

from bench.clip import CLIPS, GOLDEN, forth_and_back, real_features
from sttm_export.errors import UserError


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_a_longer_clip_plays_forth_and_back():
    assert forth_and_back(4, 9).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert forth_and_back(4, 3).tolist() == [0, 1, 2]
    assert forth_and_back(1, 3).tolist() == [0, 0, 0]
    assert forth_and_back(2, 4).tolist() == [0, 1, 0, 1]
    assert np.abs(np.diff(forth_and_back(32, 256))).max() == 1


@pytest.mark.parametrize("clip", CLIPS)
def test_similarities_are_those_of_the_clip(clip):
    features = real_features(16, 2048, clip, noise=0.0)
    golden = np.load(GOLDEN / f"{clip}.npz")["features"].astype(np.float32)[:16].reshape(16, 16, 196).transpose(0, 2, 1)
    # A random projection of 16 channels to C turns angles by about 1/sqrt(C).
    difference = cosines(features[1:], features[:-1]) - cosines(golden[1:], golden[:-1])
    assert np.abs(difference).mean() < 0.02


def test_noise_lowers_similarities_a_little():
    clean, noisy = (real_features(4, 256, noise=noise) for noise in (0.0, 0.05))
    assert 0.97 < cosines(clean, noisy).mean() < 0.999


def test_the_same_arguments_give_the_same_features():
    first = real_features(40, 32)
    assert first.shape == (40, 196, 32)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, real_features(40, 32))
    assert not np.array_equal(first, real_features(40, 32, seed=1))
    assert not np.array_equal(first[0], first[62 % 40])


def test_an_unknown_clip_is_refused():
    with pytest.raises(UserError, match="no clip 'cars' in tests/golden; choose one of bikes"):
        real_features(4, 8, "cars")
