"""Whether scores can be read as probabilities: how they are spread, and how often they are right."""

from typing import NamedTuple

import numpy as np

from ..metrics.figures import ratio

__all__ = ['Reliability', 'reliability', 'score_histogram']


class Reliability(NamedTuple):
    """How often scores are right, by bins of equal width from 0 to 1.

    Attributes:
        counts: Known targets (B,) with a score in the bin.
        scores: Mean score (B,) in the bin, 0 for an empty one.
        shares: Share (B,) of positives in the bin, 0 for an empty one.
        error: Expected calibration error in [0, 1]: mean distance of score and share, over all scores.
    """

    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    error: float


def _bins(scores: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((scores * bins).astype(np.int64), bins - 1)


def reliability(scores: np.ndarray, targets: np.ndarray, bins: int = 10) -> Reliability:
    """Compare scores with how often the label is there.

    Args:
        scores: Probabilities, of any shape.
        targets: Of the same shape: 1, 0, or -1 for unknown, which does not count.
        bins: Number of bins B.
    """
    known = targets >= 0
    score, positive = scores[known].astype(np.float64), targets[known] > 0
    place = _bins(score, bins)
    counts = np.bincount(place, minlength=bins)
    means = ratio(np.bincount(place, score, bins), counts)
    shares = ratio(np.bincount(place, positive, bins), counts)
    return Reliability(counts, means, shares, float(ratio((counts * np.abs(means - shares)).sum(), counts.sum())))


def score_histogram(scores: np.ndarray, targets: np.ndarray, bins: int = 20) -> np.ndarray:
    """Numbers (2, B) of scores in bins of equal width from 0 to 1: of images with the label, and of those without.

    The arguments are those of `reliability`.
    """
    return np.stack([np.bincount(_bins(scores[targets == value], bins), minlength=bins) for value in (1, 0)])
