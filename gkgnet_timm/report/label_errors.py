"""Labels that are probably wrong, by the scores of a model."""

import warnings
from typing import Optional

import numpy as np

from ..evaluation.curves import most_frequent

__all__ = ['find_label_errors']


def find_label_errors(scores: np.ndarray, targets: np.ndarray) -> Optional[np.ndarray]:
    """Find labels (N, L) that are probably wrong by cleanlab's filter for multi-label data, class by class.

    Of many classes, those of `most_frequent` are looked at.

    Args:
        scores: Probabilities (N, L).
        targets: (N, L), 1, 0, or -1 for unknown, which is left out of its class.

    Returns:
        (N, L) bool, None if cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None
    found = np.zeros(targets.shape, dtype=bool)
    for label in most_frequent(targets).tolist():
        score, target = scores[:, label], targets[:, label]
        known = np.flatnonzero(target >= 0)
        present = target[known] > 0
        if not present.any() or present.all():  # nothing tells one from the other
            continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of classes with few images
            # as cleanlab's filter for multi-label data does for each class
            binary = np.stack([1 - score[known], score[known]], axis=1)
            found[known, label] = find_label_issues(present.astype(int), binary, n_jobs=1)
    return found
