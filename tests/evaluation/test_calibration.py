"""Whether scores can be read as probabilities."""

import numpy as np
import pytest

from gkgnet_timm.evaluation.calibration import reliability, score_histogram


def test_scores_in_bins():
    scores = np.array([[0.0, 0.05, 0.95], [1.0, 0.9, 0.35]])
    targets = np.array([[0, 1, 1], [1, 0, -1]])
    counts, means, shares, error = reliability(scores, targets)
    assert counts.tolist() == [2, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    assert means[[0, 9]] == pytest.approx([0.025, 0.95]) and shares[[0, 9]] == pytest.approx([0.5, 2 / 3])
    assert error == pytest.approx((2 * 0.475 + 3 * (0.95 - 2 / 3)) / 5)
    assert score_histogram(scores, targets, 2).tolist() == [[1, 2], [1, 1]]


def test_error_of_calibrated_scores_is_small():
    rng = np.random.default_rng(0)
    scores = rng.random(100_000).astype(np.float32)
    targets = (rng.random(100_000) < scores).astype(int)
    assert reliability(scores, targets).error < 0.01
    assert reliability(scores**2, targets).error == pytest.approx(1 / 6, abs=0.01)  # the mean of x - x^2


def test_nothing_known():
    counts, means, shares, error = reliability(np.full((2, 1), 0.5), np.full((2, 1), -1))
    assert not counts.any() and not means.any() and not shares.any() and error == 0
    assert not score_histogram(np.full((2, 1), 0.5), np.full((2, 1), -1)).any()
