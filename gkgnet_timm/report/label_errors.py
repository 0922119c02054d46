"""Labels that are probably wrong, by the scores of a model."""

import warnings
from typing import Optional

import numpy as np

__all__ = ['find_label_errors']


def find_label_errors(scores: np.ndarray, targets: np.ndarray) -> Optional[np.ndarray]:
    """Find labels (N, L) that are probably wrong by cleanlab's filter for multi-label data, class by class.

    Args:
        scores: Probabilities (N, L).
        targets: (N, L), 1, 0, or -1 for unknown, which is left out of its class.

    Returns:
        (N, L) bool, None if cleanlab is not installed.
    """
    try:
        from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
    except ImportError:
        return None
    found = np.zeros(targets.shape, dtype=bool)
    for label, (score, target) in enumerate(zip(scores.T, targets.T)):
        known = np.flatnonzero(target >= 0)
        present = target[known] > 0
        if not present.any() or present.all():  # nothing tells one from the other
            continue
        given = [[0] if has_label else [] for has_label in present.tolist()]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of classes with few images
            found[known, label] = find_multilabel_issues_per_class(given, score[known, None], n_jobs=1)[:, 0]
    return found
