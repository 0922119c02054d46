"""What plots and reports of an evaluation show, as numbers: precision over recall, and which labels mislead."""

from typing import Tuple

import numpy as np

from ..metrics.figures import rank_positives, ratio

__all__ = [
    'MOST_CLASSES',
    'confusion_counts',
    'confusion_excess',
    'confusion_shares',
    'most_confused',
    'most_frequent',
    'precision_at',
]

MOST_CLASSES = 500


def precision_at(scores: np.ndarray, targets: np.ndarray, recalls: np.ndarray) -> Tuple[np.ndarray, float]:
    """Precision at the highest threshold that reaches each recall above 0, and average precision in [0, 1], over known
    targets with at least one positive.
    """
    known = targets >= 0
    _, hits, images = rank_positives(scores[known], targets[known] > 0)
    at = np.searchsorted(hits, recalls * hits[-1] - 1e-6)  # less than a hit, more than the rounding of the product
    return hits[at] / images[at], float((np.diff(hits, prepend=0) * hits / images).sum() / hits[-1])


def most_frequent(targets: np.ndarray) -> np.ndarray:
    """Indices, ascending, of the classes with most images that are looked at for confusions, which are of pairs."""
    return np.sort(np.argsort(-(targets > 0).sum(axis=0), kind='stable')[:MOST_CLASSES])


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


def confusion_excess(counts: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Images (L, L) of `confusion_counts` beyond as many as there would be with the share of any image, at least 0.

    The diagonal, which is of another kind, is 0.
    """
    excess = np.maximum(counts[1:] - ratio(counts[0], support[0]) * support[1:], 0)
    np.fill_diagonal(excess, 0)
    return excess


def most_confused(counts: np.ndarray, support: np.ndarray, most: int) -> np.ndarray:
    """Indices, ascending, of the classes that take most part in confusions, those without images last."""
    excess = confusion_excess(counts, support)
    involved = np.where(support[1:].diagonal() > 0, excess.sum(axis=0) + excess.sum(axis=1), -1)
    return np.sort(np.argsort(-involved, kind='stable')[:most])


def confusion_shares(counts: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Shares (1 + L, L) of `confusion_counts` in percent, nan if no image counts."""
    return np.where(support > 0, 100 * ratio(counts, support), np.nan)
