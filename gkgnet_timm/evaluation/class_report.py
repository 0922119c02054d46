"""Metrics of every class, as a table."""

import csv
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from ..metrics import Array, Threshold, average_precision
from ..metrics.figures import check_scores, check_threshold, ratio
from ..runtime import replacing
from .thresholds import class_thresholds

__all__ = ['check_rows', 'class_report', 'count_decisions', 'write_class_report']

COLUMNS = ('name', 'positives', 'AP', 'precision', 'recall', 'F1', 'best_threshold')
Rows = List[Dict[str, Any]]


def check_rows(
    scores: Array, targets: Array, class_names: Sequence[str], files: Optional[Sequence[str]] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """Check that there is a name for each of the L classes, and a file for each of the N images, see `check_scores`."""
    scores, targets = check_scores(scores, targets)
    if len(class_names) != scores.shape[1]:
        raise ValueError(f'scores have {scores.shape[1]} classes, but there are {len(class_names)} class names.')
    if files is not None and len(files) != len(scores):
        raise ValueError(f'scores have {len(scores)} images, but there are {len(files)} files.')
    return scores, targets


def count_decisions(scores: np.ndarray, targets: np.ndarray, threshold: np.ndarray) -> Tuple[np.ndarray, ...]:
    """Count the images of every class (L,) that are rightly predicted, that are predicted, and that have the label."""
    predicted, positive = scores >= threshold.astype(scores.dtype), targets > 0  # in the type of scores, as in metrics
    return tuple(x.sum(axis=0) for x in (predicted & positive, predicted, positive))


def class_report(
    scores: Array,
    targets: Array,
    class_names: Sequence[str],
    threshold: Threshold = 0.5,
    ranking: Optional[Array] = None,
) -> Rows:
    """Compute metrics of every class, in percent. The means of AP, precision and recall are the mAP, CP and CR of
    `multilabel_metrics`.

    Args:
        scores: Probabilities (N, L).
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown: not ranked, a negative in all other figures.
        class_names: L names.
        threshold: Lowest score in (0, 1) of a predicted label, or one for each class (L,).
        ranking: (N, L) of which the AP is, such as the logits of scores that tie near 1 (default: scores).

    Returns:
        Of each class name, positives (images), AP, precision, recall and F1, each 0 for 0 / 0, and best_threshold,
        the score in (0, 1) that `calibrate` chooses on these images.
    """
    scores, targets = check_rows(scores, targets, class_names)
    hits, predictions, positives = count_decisions(scores, targets, check_threshold(threshold, scores.shape[1]))
    columns = [positives, 100 * average_precision(scores if ranking is None else ranking, targets)]
    for numerator, denominator in ((hits, predictions), (hits, positives), (2 * hits, predictions + positives)):
        columns.append(100 * ratio(numerator, denominator))
    columns.append(class_thresholds(scores, targets))
    return [dict(zip(COLUMNS, row)) for row in zip(class_names, *(column.tolist() for column in columns))]


def write_class_report(path: Union[str, Path], rows: Rows) -> None:
    """Write the rows of `class_report` as CSV: figures with 4 decimals, thresholds, often tiny, with 6 digits."""
    with replacing(path, newline='') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            cells = {name: f'{value:.4f}' if isinstance(value, float) else value for name, value in row.items()}
            cells['best_threshold'] = f'{row["best_threshold"]:.6g}'
            writer.writerow(cells.values())
