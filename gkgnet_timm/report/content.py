"""All that a report shows, as plain values for a page: figures, sentences, and names of classes and files."""

from typing import Any, Dict, List, Optional

import numpy as np

from ..evaluation.calibration import Reliability, reliability, score_histogram
from ..evaluation.class_report import Rows, class_report, count_decisions
from ..evaluation.curves import (
    confusion_counts,
    confusion_excess,
    confusion_shares,
    most_confused,
    most_frequent,
    precision_at,
)
from ..evaluation.evaluate import Evaluation
from ..metrics import chance_by_class
from ..metrics.figures import by_class, check_threshold, ratio, threshold_figures
from .gallery import Gallery, pick
from .label_errors import find_label_errors
from .words import describe_data, explain_calibration, explain_figures

__all__ = ['describe_classes', 'describe_confusion', 'describe_evaluation', 'pick_galleries']

RECALLS = np.linspace(0.01, 1, 51)  # at 0 there is no precision
QUANTILES = (10, 50, 90)
MATRIX = 30  # most classes in the matrix
PAIRS, PAIRS_OF_CLASS = 20, 6


def _plain(values: Any, digits: int = 4) -> List[Any]:
    """Nested lists of rounded numbers, None for nan."""
    if isinstance(values, (list, np.ndarray)) and np.ndim(values):
        return [_plain(value, digits) for value in values]
    return None if np.isnan(values) else round(float(values), digits)


def _bins(of: Reliability) -> Dict[str, Any]:
    counts, scores, shares, error = of
    filled = [[s, p, int(n)] for n, s, p in zip(counts, _plain(scores), _plain(shares)) if n]
    return dict(bins=filled, error=round(100 * error, 2), sentence=explain_calibration(of))


def describe_classes(evaluation: Evaluation, rows: Rows) -> List[Dict[str, Any]]:
    """Figures of every class, of its row of `class_report`. AP is None without images that have the label."""
    _, scores, ranking, targets, _, names, threshold, *_ = evaluation
    best = np.array([row['best_threshold'] for row in rows])
    hits, predictions, positives = count_decisions(scores, targets, best)
    best_f1 = 100 * ratio(2 * hits, predictions + positives)
    thresholds = np.broadcast_to(check_threshold(threshold, len(names)), len(names))
    chance, unknown = chance_by_class(targets), (targets < 0).sum(axis=0)
    classes = []
    for i, (row, (score, rank, target)) in enumerate(zip(rows, by_class(scores, ranking, targets))):
        has = row['positives'] > 0
        one = dict(name=row['name'], images=row['positives'], unknown=int(unknown[i]), chance=100 * float(chance[i]))
        one.update({name: row[name] if has else None for name in ('AP', 'precision', 'recall', 'F1')})
        one.update(best_F1=float(best_f1[i]) if has else None)
        one['curve'] = _plain(precision_at(rank, target, RECALLS)[0], 3) if has else None
        one['histogram'] = score_histogram(score, target).tolist()
        one['calibration'] = _bins(reliability(score, target))
        one = {name: round(value, 2) if isinstance(value, float) else value for name, value in one.items()}
        one.update(threshold=float(thresholds[i]), best_threshold=row['best_threshold'] if has else None)
        classes.append(one)
    return classes


def _pairs(excess: np.ndarray, counts: np.ndarray, support: np.ndarray, kept: np.ndarray) -> List[List[Any]]:
    """The pairs (label, predicted label, images of both, images of the label, % there, % in all images) of most excess
    in each row and column, and over all."""
    order = np.argsort(-excess, axis=None, kind='stable')
    of_all = {int(at) for at in order[:PAIRS] if excess.flat[at] > 0}
    labels = len(excess)
    best = np.argsort(-excess, axis=1, kind='stable')[:, :PAIRS_OF_CLASS]
    flat = {int(row * labels + column) for row in range(labels) for column in best[row] if excess[row, column] > 0}
    best = np.argsort(-excess, axis=0, kind='stable')[:PAIRS_OF_CLASS]
    flat |= {
        int(row * labels + column) for column in range(labels) for row in best[:, column] if excess[row, column] > 0
    }
    pairs = []
    for at in sorted(of_all | flat, key=lambda at: -excess.flat[at]):
        row, column = divmod(at, labels)
        wrong, all_of = int(counts[1 + row, column]), int(support[1 + row, column])
        base = 100 * float(ratio(counts[0, column], support[0, column]))
        shown = [int(kept[row]), int(kept[column]), wrong, all_of, round(100 * wrong / all_of, 1), round(base, 1)]
        pairs.append(shown)
    return pairs


def describe_confusion(evaluation: Evaluation) -> Dict[str, Any]:
    """Which labels mislead the model to others: the matrix of the classes that are confused most, and pairs."""
    targets, names = evaluation.targets, evaluation.class_names
    threshold = check_threshold(evaluation.threshold, len(names)).astype(evaluation.scores.dtype)
    kept = most_frequent(targets)
    counts, support = confusion_counts((evaluation.scores >= threshold)[:, kept], targets[:, kept])
    excess, shown = confusion_excess(counts, support), most_confused(counts, support, MATRIX)
    matrix = confusion_shares(counts, support)[np.ix_(np.append(0, 1 + shown), shown)]
    note = f'{len(shown)} of {len(names)} classes: those that are confused most.' if len(shown) < len(names) else ''
    if len(kept) < len(names):
        note += f' Looked at are the {len(kept)} classes with most images.'
    return dict(
        classes=kept[shown].tolist(), matrix=_plain(matrix, 1), pairs=_pairs(excess, counts, support, kept), note=note
    )


def pick_galleries(evaluation: Evaluation) -> Dict[str, Optional[Gallery]]:
    """Mistakes to show by kind; None for what cannot be found, as a package is missing."""
    scores, ranking, targets = evaluation.scores, evaluation.ranking, evaluation.targets
    threshold = check_threshold(evaluation.threshold, targets.shape[1]).astype(scores.dtype)
    predicted = scores >= threshold
    wrong = find_label_errors(scores, targets)
    return dict(
        false_positives=pick(predicted & (targets == 0), ranking),
        misses=pick(~predicted & (targets > 0), -ranking),
        label_errors=None if wrong is None else pick(wrong, np.where(targets > 0, -ranking, ranking)),
    )


def describe_evaluation(evaluation: Evaluation) -> Dict[str, Any]:
    """All figures of a report, and what they mean."""
    scores, targets = evaluation.scores, evaluation.targets
    rows = class_report(scores, targets, evaluation.class_names, evaluation.threshold, evaluation.ranking)
    classes = describe_classes(evaluation, rows)
    best = np.array([row['best_threshold'] for row in rows])
    best = threshold_figures(lambda part: scores[part].astype(np.float32), targets, best, topk=3, topk_gated=True)
    calibration = reliability(scores, targets)
    curves = np.array([row['curve'] for row in classes if row['curve']])
    return dict(
        notes=describe_data(evaluation),
        figures=explain_figures(evaluation, best, calibration),
        classes=classes,
        recalls=_plain(RECALLS, 2),
        curves=dict(
            mean=_plain(curves.mean(axis=0), 3) if len(curves) else None,
            quantiles=_plain(np.percentile(curves, QUANTILES, axis=0), 3) if len(curves) else None,
        ),
        histogram=score_histogram(scores, targets).tolist(),
        calibration=_bins(calibration),
        confusion=describe_confusion(evaluation),
        threshold=None if np.ndim(evaluation.threshold) else float(evaluation.threshold),
    )
