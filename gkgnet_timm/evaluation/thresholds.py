"""Thresholds of predicted labels: chosen on a labelled split, stored with the class names."""

import json
from pathlib import Path
from typing import Sequence, Tuple, Union

import numpy as np

from ..metrics import Array, check_scores, rank
from ..runtime import replacing

__all__ = ['calibrate', 'save_thresholds']


def _best_threshold(scores: np.ndarray, positive: np.ndarray) -> float:
    """Find the threshold of highest F1, in the middle of the gap below a score. 0.5 if that F1 is 0."""
    above, hits, images = rank(scores.astype(np.float64), positive)
    below = np.append(above[1:], 0.0)
    middle = (above + below) / 2
    rounded = middle.astype(np.float32)
    # between neighbouring float32 numbers the middle may round to the lower one
    thresholds = np.where((below < rounded) & (rounded <= above), middle, above)
    f1 = 2 * hits / (images + hits[-1])
    f1[(thresholds <= 0) | (thresholds >= 1)] = 0  # a score of 0 reaches no threshold
    best = f1.argmax()
    return float(thresholds[best]) if f1[best] > 0 else 0.5


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
    positive = targets > 0
    per_class = np.array([_best_threshold(scores[:, i], positive[:, i]) for i in range(scores.shape[1])])
    return per_class, _best_threshold(scores.ravel(), positive.ravel())


def save_thresholds(path: Union[str, Path], class_names: Sequence[str], per_class: np.ndarray, overall: float) -> None:
    """Write thresholds as json, for `weights.thresholds.load_threshold`."""
    content = dict(threshold=overall, classes=dict(zip(class_names, map(float, per_class))))
    with replacing(path) as file:
        file.write(json.dumps(content, indent=4) + '\n')
