"""Fidelity of merged tokens, against figures worked out by hand and by NumPy's own functions."""

import numpy as np
import pytest

from sttm_export.runtime.fidelity import fidelity


def test_exact_tokens_lose_nothing():
    features = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    kept = fidelity(features, features.reshape(-1, 5), np.arange(12).reshape(3, 4))
    assert kept.relative_error == 0.0
    assert kept.cosine == pytest.approx(1.0)


def test_by_hand():
    """One token (1, 0) for the cells (1, 0) and (0, 1): difference √2 over norm √2; cosines 1 and 0."""
    features = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    kept = fidelity(features, np.array([[1.0, 0.0]]), np.zeros((1, 2), np.int32))
    assert kept.relative_error == pytest.approx(1.0)
    assert kept.cosine == pytest.approx(0.5)
    assert kept.error_of_frame == pytest.approx([1.0])


def test_frames_add_up():
    rng = np.random.default_rng(1)
    features, tokens = rng.normal(size=(4, 6, 8)), rng.normal(size=(5, 8))
    assignment = rng.integers(0, 5, (4, 6))
    kept = fidelity(features, tokens, assignment)
    whole = np.linalg.norm(tokens[assignment] - features) / np.linalg.norm(features)
    assert kept.relative_error == pytest.approx(whole)
    norms = np.linalg.norm(features.reshape(4, -1), axis=1)
    assert np.sqrt(((kept.error_of_frame * norms) ** 2).sum() / (norms**2).sum()) == pytest.approx(whole)
    assert kept.cosine_of_frame.mean() == pytest.approx(kept.cosine)


def test_zero_vectors():
    """Nothing is lost where a cell of zeros gets a token of zeros; all is where it gets another."""
    features = np.zeros((2, 1, 3))
    kept = fidelity(features, np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([[0], [1]]))
    assert kept.error_of_frame.tolist() == [0.0, np.inf]
    assert kept.cosine_of_frame.tolist() == [1.0, 0.0]
