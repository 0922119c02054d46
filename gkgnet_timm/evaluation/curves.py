"""What plots and reports of an evaluation show, as numbers: precision over recall, and which labels mislead."""

from typing import Tuple

import numpy as np

from ..metrics import rank, ratio

__all__ = ['confusion', 'confusion_counts', 'precision_at']


def precision_at(scores: np.ndarray, targets: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Precision at the highest threshold that reaches each recall, over known targets with at least one positive."""
    known = targets >= 0
    _, hits, images = rank(scores[known], targets[known] > 0)
    at = np.searchsorted(hits, recalls * hits[-1] - 1e-6)  # less than a hit, more than the rounding of the product
    return hits[at] / images[at]


def confusion_counts(predicted: np.ndarray, targets: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Images (1 + L, L) in which a label is predicted although it is absent, and in which it is absent.

    The first row is over all images, row 1 + i over those that have label i. On the diagonal below the first row are
    those that miss label i, and those that have it. Unknown targets do not count.

    Args:
        predicted: (N, L) bool.
        targets: (N, L).
    """
    present, absent = (x.astype(np.float32) for x in (targets > 0, targets == 0))  # products of floats are fast
    diagonal = np.arange(1, 1 + targets.shape[1]), np.arange(targets.shape[1])
    rows = np.vstack([np.ones(len(targets), np.float32), present.T])
    counts, support = rows @ (predicted * absent), rows @ absent
    counts[diagonal], support[diagonal] = (present * ~predicted).sum(axis=0), present.sum(axis=0)
    return counts, support


def confusion(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Shares (1 + L, L) of `confusion_counts` in percent, nan if no image counts."""
    counts, support = confusion_counts(predicted, targets)
    return np.where(support > 0, 100 * ratio(counts, support), np.nan)
