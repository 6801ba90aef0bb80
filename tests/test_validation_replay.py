import numpy as np
import pytest
from helpers_validation import GOLDEN, Clip

from sttm_export.validation.quadtree import build_quadtree
from sttm_export.validation.replay import choose, replay
from sttm_export.validation.similarities import compute_similarities
from sttm_export.validation.ties import rounding_band

CASES = sorted(path.stem for path in GOLDEN.glob("*.npz"))


@pytest.mark.parametrize("name", CASES)
def test_replay_equals_the_published_implementation(name):
    clip = Clip(name)
    outputs = clip.run()
    count = int(outputs["num_tokens"])
    order = np.lexsort(clip.golden["tyxyx"].T[2::-1])
    assert np.array_equal(outputs["token_box"][:count], clip.golden["tyxyx"][order])
    assert np.array_equal(outputs["token_patches"][:count], clip.golden["num_patches"][order])
    assert np.abs(outputs["tokens"][:count] - clip.golden["tokens"][order]).max() < 1e-5


def test_quadtree_of_odd_and_even_sides():
    tree = build_quadtree(5, 4, 0)
    assert [tree.nodes(level) for level in range(tree.levels)] == [3 * 2, 5 * 4]
    # An odd side leaves row 0 alone: its node has two children, and the empty slots point at cell 0.
    assert tree.slots[0][0].tolist() == [0, 1, 0, 0]
    assert tree.filled[0][0].tolist() == [True, True, False, False]
    assert tree.slots[0][3].tolist() == [6, 7, 10, 11]
    assert tree.filled[0][3].all()
    assert tree.first[0, 10] == 6
    assert tree.last[0, 10] == 11


@pytest.mark.parametrize(
    ("height", "width", "sizes"), [(14, 14, [4, 16, 49, 196]), (1, 1, [1]), (27, 27, [4, 16, 49, 196, 729])]
)
def test_pyramid_sizes(height, width, sizes):
    tree = build_quadtree(height, width, 0)
    assert [tree.nodes(level) for level in range(tree.levels)] == sizes
    assert build_quadtree(height, width, -1).levels == 1


def test_zero_vectors_have_similarity_zero():
    tree = build_quadtree(4, 4, 0)
    found = compute_similarities(np.zeros((2, 16, 3)), tree)
    assert (found.least[0] == 0).all()
    assert (found.pairs == 0).all()


def test_nan_never_merges():
    tree = build_quadtree(4, 4, 0)
    x = np.ones((2, 16, 3))
    x[1, 0] = np.nan
    result = replay(tree, choose(compute_similarities(x, tree), 0.5, 0.5), 2)
    assert result.level[0].max() == 0
    assert result.level[1, 0] == 1
    assert result.representative[1, 0] == 16


def test_one_frame_and_no_temporal_step():
    tree = build_quadtree(4, 4, 0)
    x = np.ones((1, 16, 3))
    assert len(np.unique(replay(tree, choose(compute_similarities(x, tree), 0.5, 0.5), 1).keys)) == 4
    twice = np.ones((2, 16, 3))
    result = replay(tree, choose(compute_similarities(twice, tree), 0.5, None), 2)
    assert len(np.unique(result.keys)) == 8
    assert result.rounds == 0


@pytest.mark.parametrize("channels", [16, 3584])
def test_the_band_holds_what_float32_really_does(channels):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 196, channels)).astype(np.float32)
    x += 3 * rng.standard_normal((1, 1, channels)).astype(np.float32)
    tree = build_quadtree(14, 14, -1)
    exact = compute_similarities(x, tree).pairs[0, 0]
    unit = x / np.linalg.norm(x, axis=2, keepdims=True)
    error = np.abs((unit[:-1] * unit[1:]).sum(2) - exact).max()
    assert 0 < error < rounding_band(channels, "float32") < 1e-4
