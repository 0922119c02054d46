"""Thresholds of predicted labels: chosen on a labelled split, stored with the class names."""

import json
from pathlib import Path
from typing import Sequence, Tuple, Union

import numpy as np

from ..metrics import Array
from ..metrics.figures import by_class, check_scores
from ..runtime import replacing

__all__ = ['calibrate', 'class_thresholds', 'save_thresholds']


def _best_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """Find the threshold of highest F1, in the middle of the gap below a score. 0.5 if that F1 is 0."""
    ordered, of_positives = (np.sort(x).astype(np.float64) for x in (scores, scores[positive]))
    if not len(of_positives):
        return 0.5
    # F1 rises where a positive is reached, and else only from what is no threshold, 1 and above
    others = ordered[max(0, np.searchsorted(ordered, 1.0) - 1) :]
    above = np.unique(np.append(of_positives, others))[::-1]
    place = np.searchsorted(ordered, above)
    hits, images = len(of_positives) - np.searchsorted(of_positives, above), len(ordered) - place
    below = np.where(place > 0, ordered[place - 1], 0.0)
    middle = (above + below) / 2
    rounded = middle.astype(np.float32)
    # between neighbouring float32 numbers the middle may round to the lower one
    thresholds = np.where((below < rounded) & (rounded <= above), middle, above)
    f1 = 2 * hits / (images + len(of_positives))
    f1[(thresholds <= 0) | (thresholds >= 1)] = 0  # a score of 0 reaches no threshold
    best = f1.argmax()
    return float(thresholds[best]) if f1[best] > 0 else 0.5


def class_thresholds(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Those of the classes (L,) that `calibrate` returns."""
    return np.array([_best_threshold(score, target > 0) for score, target in by_class(scores, targets)])


def calibrate(scores: Array, targets: Array) -> Tuple[np.ndarray, float]:
    """Choose the thresholds that maximise F1 on a labelled split: one for each class (L,), and one for all.

    A threshold lies between 0 and 1, in the middle of the gap to the next lower score; of equally good ones the highest
    is chosen. It is 0.5 if none gives an F1 above 0, as in a class without positives.

    Args:
        scores: Probabilities (N, L).
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown: a negative, as in the thresholded metrics.

    Raises:
        ValueError: For nan scores, other targets, or other shapes.
    """
    scores, targets = check_scores(scores, targets)
    return class_thresholds(scores, targets), _best_threshold(scores.ravel(), targets.ravel() > 0)


def save_thresholds(path: Union[str, Path], class_names: Sequence[str], per_class: np.ndarray, overall: float) -> None:
    """Write thresholds as json, for `weights.thresholds.load_threshold`."""
    content = dict(threshold=overall, classes=dict(zip(class_names, map(float, per_class))))
    with replacing(path) as file:
        file.write(json.dumps(content, indent=4) + '\n')
