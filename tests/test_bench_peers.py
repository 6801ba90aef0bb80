"""Other methods do what their files say, on cases that are made by hand."""

import helpers_rooms  # noqa: F401
import numpy as np
import pytest

from bench.methods import PEERS
from bench.peers import dycoke, evs, frame_dropping, framefusion, spatial_pooling, tome
from bench.peers.reduced import OutOfReach, kept, merged
from sttm_export.runtime.fidelity import fidelity

EXACT = ["tome-clip", "tome-frame", "framefusion", "evs", "dycoke"]
"""Methods that reach every count that they can reach at all."""

MERGES = ["tome-clip", "tome-frame", "framefusion", "pooling"]
"""Whose tokens are means of their cells."""


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def error(features, reduced):
    return fidelity(features.reshape(len(features), -1, features.shape[-1]), *reduced).relative_error


def row(*values):
    """One column of cells that lie on a line in two dimensions: angles tell them apart."""
    return np.array([[np.cos(value), np.sin(value)] for value in values], np.float32)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.77, 1.0])
def test_never_more_than_wanted_and_every_cell_has_a_token(name, share):
    features = noise(8, 4, 6, 5)
    wanted = int(share * features[..., 0].size)
    tokens, assignment = PEERS[name][1](features, wanted)
    assert assignment.shape == (8, 24)
    assert set(assignment.ravel()) == set(range(len(tokens)))
    assert len(tokens) == wanted if name in EXACT else wanted / 2 < len(tokens) <= wanted
    assert np.isfinite(tokens).all()


@pytest.mark.parametrize("name", PEERS)
def test_all_tokens_are_lossless(name):
    features = noise(5, 4, 4, 3)
    reduced = PEERS[name][1](features, 80)
    assert len(reduced.tokens) == 80
    assert error(features, reduced) == 0


@pytest.mark.parametrize("name", [name for name in PEERS if name not in {"tome-frame", "pooling"}])
def test_a_still_clip_costs_nothing(name):
    features = np.repeat(noise(1, 4, 4, 3), 8, axis=0)
    reduced = PEERS[name][1](features, 48)
    assert len(reduced.tokens) <= 48
    assert error(features, reduced) < 1e-6


@pytest.mark.parametrize("name", ["tome-clip", "tome-frame", "pooling"])
def test_a_flat_frame_costs_nothing(name):
    features = np.broadcast_to(noise(4, 1, 1, 3), (4, 4, 4, 3)).copy()
    assert error(features, PEERS[name][1](features, 16)) < 1e-6


@pytest.mark.parametrize("name", PEERS)
def test_tokens_are_what_the_method_says(name):
    features = noise(8, 4, 4, 3)
    tokens, assignment = PEERS[name][1](features, 64)
    cells, slots = features.reshape(-1, 3), assignment.ravel()
    for slot, token in enumerate(tokens):
        members = cells[slots == slot]
        if name in MERGES:
            np.testing.assert_allclose(token, members.mean(0), rtol=1e-4, atol=1e-5)
        else:
            assert (members == token).all(1).any()


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("tome-clip", 1),
        ("tome-frame", 8),
        ("framefusion", 16),
        ("evs", 16),
        ("dycoke", 32),
        ("pooling", 8),
        ("frames", 16),
    ],
)
def test_where_a_method_ends_is_told(name, least):
    features = noise(8, 4, 4, 3)
    assert len(PEERS[name][1](features, least).tokens) == least
    with pytest.raises(OutOfReach, match=f"{least - 1} tokens are fewer than {least}"):
        PEERS[name][1](features, least - 1)


def test_groups_become_means_in_the_order_of_their_first_cells():
    features = np.array([[[[2.0], [4.0]]], [[[6.0], [10.0]]]], np.float32)
    tokens, assignment = merged(features, np.array([7, 3, 3, 7]))
    assert tokens.ravel().tolist() == [6.0, 5.0]
    assert assignment.tolist() == [[0, 1], [1, 0]]
    tokens, assignment = kept(features, np.array([1, 1, 2, 1]))
    assert tokens.ravel().tolist() == [4.0, 6.0]
    assert assignment.tolist() == [[0, 0], [1, 0]]


def test_pooled_grids_keep_the_shape_of_the_frame():
    assert spatial_pooling.grid(14, 14, 196) == (14, 14)
    assert spatial_pooling.grid(14, 14, 195) == (13, 14)
    assert spatial_pooling.grid(14, 14, 49) == (7, 7)
    assert spatial_pooling.grid(14, 14, 19) == (4, 4)
    assert spatial_pooling.grid(14, 20, 70) == (7, 10)
    assert spatial_pooling.grid(14, 20, 1) == (1, 1)


def test_pooling_averages_windows_that_do_not_overlap():
    features = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    tokens, assignment = spatial_pooling.reduce(features, 5)
    assert tokens.ravel().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert assignment.reshape(4, 4)[1].tolist() == [0, 0, 1, 1]


def test_kept_frames_are_the_middles_of_equal_stretches():
    assert frame_dropping.kept_frames(32, 1).tolist() == [16]
    assert frame_dropping.kept_frames(8, 4).tolist() == [1, 3, 5, 7]
    assert frame_dropping.kept_frames(5, 5).tolist() == [0, 1, 2, 3, 4]
    features = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    tokens, assignment = frame_dropping.reduce(features, 2)
    assert tokens.ravel().tolist() == [1.0, 4.0]
    assert assignment.ravel().tolist() == [0, 0, 0, 1, 1, 1]


def test_bipartite_matching_merges_the_most_similar_pair_of_a_and_b():
    # A: angles 0, 1, 2; B: 0.5, 1.1, 3. The nearest pair is (1, 1.1); 0 and 2 are left in A.
    cells = row(0.0, 0.5, 1.0, 1.1, 2.0, 3.0)
    groups = tome.bipartite(cells, 5)
    assert groups[2] == groups[3]
    assert len(set(groups)) == 5


def test_bipartite_means_are_weighted_by_cells():
    # Three equal cells join one by one; a fourth that differs a little joins last and counts a quarter.
    cells = np.concatenate([np.repeat(row(0.0), 3, axis=0), row(0.2)])
    tokens, _ = tome.per_clip(cells.reshape(1, 1, 4, 2), 1)
    np.testing.assert_allclose(tokens[0], cells.mean(0), atol=1e-6)


def test_a_clip_is_matched_across_frames_and_a_frame_within_itself():
    # Two frames of two cells: alike across frames, apart within them.
    features = np.stack([row(0.0, 1.5), row(0.0, 1.5)]).reshape(2, 1, 2, 2)
    assert error(features, tome.per_clip(features, 2)) < 1e-6
    assert error(features, tome.per_frame(features, 2)) > 0.5


def test_dycoke_compares_the_second_with_the_first_and_the_fourth_with_the_third():
    # One place of four: the cell that goes from each later frame is the one most similar to what it is compared with.
    features = np.stack([row(0.0, 1.0), row(0.0, 2.0), row(0.1, 2.5), row(1.5, 2.5)]).reshape(4, 1, 2, 2)
    tokens, assignment = dycoke.reduce(features, 5)
    # Frame 1 loses cell 0 to frame 0, frame 2 loses cell 0 to frame 0, frame 3 loses cell 1 to frame 2.
    assert assignment.tolist() == [[0, 1], [0, 2], [0, 3], [4, 3]]
    np.testing.assert_array_equal(tokens[0], row(0.0)[0])


def test_dycoke_follows_what_went_before():
    features = np.repeat(row(0.3).reshape(1, 1, 1, 2), 4, axis=0)
    assert dycoke.reduce(features, 1).assignment.ravel().tolist() == [0, 0, 0, 0]


def test_evs_keeps_the_first_frame_and_what_changes_most():
    features = np.array([[0, 0], [0.1, 5], [0.2, 5.5], [3, 5.6]], np.float32).reshape(4, 1, 2, 1)
    tokens, assignment = evs.reduce(features, 4)
    assert assignment.tolist() == [[0, 1], [0, 2], [0, 2], [3, 2]]
    assert tokens.ravel().tolist() == [0, 0, 5, 3]


def test_framefusion_averages_chains_of_one_place():
    features = np.stack([row(0.0, 0.0), row(0.1, 1.0), row(0.2, 1.2), row(1.5, 2.9)]).reshape(4, 1, 2, 2)
    tokens, assignment = framefusion.reduce(features, 5)
    assert assignment.tolist() == [[0, 1], [0, 2], [0, 2], [3, 4]]
    np.testing.assert_allclose(tokens[0], features[:3, 0, 0].mean(0), atol=1e-6)
