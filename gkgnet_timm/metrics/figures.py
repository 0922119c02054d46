"""Multi-label metrics of the published GKGNet evaluation, for whole arrays.

They may hold gigabytes: beside them, only parts of `PART` numbers are copied.
"""

from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple, Union

import numpy as np
import torch

__all__ = [
    'Array',
    'Threshold',
    'average_precision',
    'by_class',
    'chance_by_class',
    'chance_level',
    'check_scores',
    'check_threshold',
    'mean_bce',
    'multilabel_metrics',
    'rank_positives',
    'ranking_figures',
    'ratio',
    'threshold_figures',
]

Array = Union[np.ndarray, torch.Tensor]
"""Array of numpy, or tensor on any device."""

Threshold = Union[float, Sequence[float], Array]
"""Lowest score of a predicted label, in (0, 1): one for all classes, or L in the order of the classes."""

AREA_RANGES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, np.inf)}  # px^2, COCO's
PART = 1 << 20


def _to_numpy(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = x.float() if x.dtype == torch.bfloat16 else x  # numpy has none
    return np.asarray(x)


def _row_parts(shape: Tuple[int, int]) -> Iterator[slice]:
    step = max(1, PART // shape[1] // 64) * 64  # vector instructions end where they do for all rows
    return (slice(start, start + step) for start in range(0, shape[0], step))


def by_class(*arrays: np.ndarray) -> Iterator[Tuple[np.ndarray, ...]]:
    """Iterate over the columns (N,) of arrays (N, L), contiguous: much faster where they are read more than once."""
    step = max(16, PART // max(1, len(arrays[0])))
    for start in range(0, arrays[0].shape[1], step):
        yield from zip(*(np.ascontiguousarray(array[:, start : start + step].T) for array in arrays))


def check_scores(scores: Array, targets: Array, finite: bool = False) -> Tuple[np.ndarray, np.ndarray]:
    """Return scores as float32 or float64 and targets as int8, both (N, L) with N and L above 0.

    Infinite scores can be ranked, so they pass unless `finite`.

    Raises:
        ValueError: For nan scores, targets other than -1, 0 and 1, or wrong shapes.
    """
    scores, targets = _to_numpy(scores), _to_numpy(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f'scores and targets must both be (images, classes), got {scores.shape} and {targets.shape}.')
    if not scores.size:
        raise ValueError(f'Nothing to evaluate: scores and targets are {scores.shape}.')
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float32)
    for rows in _row_parts(scores.shape):
        unscored = ~np.isfinite(scores[rows]) if finite else np.isnan(scores[rows])
        if unscored.any():
            row, column = np.argwhere(unscored)[0]
            row += rows.start
            raise ValueError(f'scores have nan{" or inf" if finite else ""}, first in row {row}, column {column}.')
    for rows in _row_parts(targets.shape):
        invalid = (targets[rows] != 0) & (targets[rows] != 1) & (targets[rows] != -1)
        if invalid.any():
            row, column = np.argwhere(invalid)[0]
            row += rows.start
            raise ValueError(f'targets must be -1, 0 or 1, got {targets[row, column]} in row {row}, column {column}.')
    return scores, targets.astype(np.int8, copy=False)


def check_threshold(threshold: Threshold, num_classes: int) -> np.ndarray:
    """Return a threshold as an array () or (num_classes,).

    Raises:
        ValueError: For other shapes, or values outside (0, 1).
    """
    threshold = _to_numpy(threshold)
    if threshold.shape not in ((), (num_classes,)):
        raise ValueError(f'threshold must be a number or {num_classes}, one per class, got shape {threshold.shape}.')
    if not np.all((threshold > 0) & (threshold < 1)):
        raise ValueError(f'threshold must lie between 0 and 1, got {threshold.min()} to {threshold.max()}.')
    return threshold


def ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """Divide, with 0 / 0 = 0."""
    denominator = np.asarray(denominator, dtype=np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def _rank(scores: np.ndarray, positive: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores (T,), highest first, with the positives and the images (T,) that reach each of them.

    Args:
        scores: (N,).
        positive: (N,) bool.
    """
    ordered = np.sort(scores)  # several times faster than argsort
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    distinct = ordered[first]
    hits = np.bincount(np.searchsorted(distinct, scores[positive]), minlength=len(first))
    return distinct[::-1], hits[::-1].cumsum(), len(scores) - first[::-1]


def rank_positives(scores: np.ndarray, positive: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores of positives, often few, highest first, with the positives and the images that reach each.

    The arguments are those of `_rank`.
    """
    ordered, of_positives = np.sort(scores), np.sort(scores[positive])
    distinct = np.unique(of_positives)[::-1]
    hits = len(of_positives) - np.searchsorted(of_positives, distinct)
    return distinct, hits, len(scores) - np.searchsorted(ordered, distinct)


def average_precision(scores: Array, targets: Array) -> np.ndarray:
    """Compute the average precision of every class, without interpolation or cut-off.

    Equal scores form one threshold, as in scikit-learn, so the order of images does not matter. The published
    evaluation leaves their order to the sort; with distinct scores the results are the same.

    Args:
        scores: (N, L), probabilities or logits: only their order counts.
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown, which leaves the image out of that class.

    Returns:
        (L,) in [0, 1], float64. 0 for a class without positives.
    """
    scores, targets = check_scores(scores, targets)
    ap = np.zeros(scores.shape[1])
    for i, (score, target) in enumerate(by_class(scores, targets)):
        known = target >= 0
        positive = target[known] > 0
        if not positive.any():
            continue
        _, hits, images = _rank(score[known], positive)
        # one summand per threshold, not per image: the sum has the same bits for any order of the images
        ap[i] = (np.diff(hits, prepend=0) * hits / images).sum() / hits[-1]
    return ap


def chance_by_class(targets: np.ndarray) -> np.ndarray:
    """Compute the average precision of every class that scores get which ignore the image.

    It is the share of positives among known targets.

    Args:
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown.

    Returns:
        (L,) in [0, 1], float64. 0 for a class without known targets.
    """
    positives, known = np.zeros((2, targets.shape[1]), dtype=np.int64)
    for rows in _row_parts(targets.shape):
        positives += (targets[rows] > 0).sum(axis=0)
        known += (targets[rows] >= 0).sum(axis=0)
    return ratio(positives, known)


def chance_level(targets: np.ndarray) -> float:
    """Compute the mAP, in percent, of scores that ignore the image: the mean of `chance_by_class`.

    Args:
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown.
    """
    return float(100 * chance_by_class(targets).mean())


def ranking_figures(scores: np.ndarray, targets: np.ndarray, areas: Optional[Array] = None) -> Dict[str, Any]:
    """Those of `multilabel_metrics` that need no threshold."""
    ap = 100 * average_precision(scores, targets)
    present = targets.max(axis=0) > 0
    figures = {'mAP': float(ap.mean()), 'mAP_present': float(ratio(ap.sum(), present.sum())), 'per_class_ap': ap}
    if areas is not None:
        areas = _to_numpy(areas)
        if areas.shape != targets.shape:
            raise ValueError(f'areas must be (images, classes) as the targets, got {areas.shape} and {targets.shape}.')
        for name, (low, high) in AREA_RANGES.items():
            within = (targets > 0) & (areas >= low) & (areas < high)
            if within.any():
                ranked = np.where((targets > 0) & ~within, -1, targets)
                figures[f'AP_{name}'] = float(100 * average_precision(scores, ranked).mean())
    return figures


def _decision_figures(tp: np.ndarray, predictions: np.ndarray, positives: np.ndarray) -> Dict[str, float]:
    figures = {}
    for kind, precision, recall in (
        ('C', ratio(tp, predictions).mean(), ratio(tp, positives).mean()),
        ('O', ratio(tp.sum(), predictions.sum()), ratio(tp.sum(), positives.sum())),
    ):
        f1 = ratio(2 * precision * recall, precision + recall)
        figures.update({f'{kind}{name}': float(100 * x) for name, x in zip(('P', 'R', 'F1'), (precision, recall, f1))})
    return figures


def _choose_top(scores: np.ndarray, predicted: np.ndarray, topk: int, topk_gated: bool) -> np.ndarray:
    k = min(topk, scores.shape[1])
    if topk_gated:
        kth = np.partition(scores, -k, axis=1)[:, -k, None]
        return (scores >= kth) & predicted
    top = np.zeros_like(predicted)
    np.put_along_axis(top, np.argsort(-scores, axis=1, kind='stable')[:, :k], True, axis=1)
    return top


def threshold_figures(
    scores_of: Callable[[slice], np.ndarray], targets: np.ndarray, threshold: np.ndarray, topk: int, topk_gated: bool
) -> Dict[str, float]:
    """Those of `multilabel_metrics` that need a threshold. `scores_of` gives the probabilities of some rows."""
    counts = np.zeros((2, 3, targets.shape[1]), dtype=np.int64)
    for rows in _row_parts(targets.shape):
        scores, positive = scores_of(rows), targets[rows] > 0
        # compare in the type of the scores: a threshold taken from a float32 score must let that score pass
        predicted = scores >= threshold.astype(scores.dtype)
        for count, chosen in zip(counts, (predicted, _choose_top(scores, predicted, topk, topk_gated))):
            count += [x.sum(axis=0) for x in (chosen & positive, chosen, positive)]
    figures, top_figures = (_decision_figures(*count) for count in counts)
    for name in ('CP', 'CR', 'OP', 'CF1', 'OR', 'OF1'):  # in the order of the published results
        figures[f'{name}_top{topk}'] = top_figures[name]
    return figures


def multilabel_metrics(
    scores: Array,
    targets: Array,
    threshold: Threshold = 0.5,
    areas: Optional[Array] = None,
    topk: int = 3,
    topk_gated: bool = True,
) -> Dict[str, Any]:
    """Compute the figures of the published GKGNet evaluation (arXiv 2308.14378, section 4), in percent.

    0 / 0 is 0, never nan. A class without positives or predictions counts as 0 and stays in the means.

    Args:
        scores: Probabilities (N, L). With logits only the AP figures are meaningful.
        targets: (N, L), 1 for a label, 0 for none. -1 is unknown (VOC: difficult): left out of the ranking of its
            class, a negative in all other figures.
        threshold: Lowest score in (0, 1) of a predicted label, or one for each class (L,).
        areas: Area of the object of each positive target (N, L) in px^2. nan belongs to no range; entries of other
            targets are not read.
        topk: Labels per image in the top-k figures.
        topk_gated: As published: the top k include all labels that tie with the k-th, and each must also reach the
            threshold. Otherwise exactly k labels are predicted; among equal scores, those of lower class index.

    Returns:
        Figures by name, as follows.

        - `mAP`: Mean of the average precisions. `mAP_present`: Mean over the classes with positives.
        - `CP`, `CR`, `OP`, `OR`: Precision and recall, mean over classes (C) and overall (O).
        - `CF1`, `OF1`: Harmonic means of CP and CR and of OP and OR.
        - `CP_top3` and so on (with topk=3): The same for the top-k predictions.
        - `per_class_ap`: Average precision of each class (L,).
        - `AP_small`, `AP_medium`, `AP_large`: mAP over positives of area below 32^2, from 32^2 to below 96^2, and from
          96^2 on, against all negatives; other positives are not ranked. Only with areas, and of ranges that have a
          positive.

    Raises:
        ValueError: For input of other shapes or values.
    """
    if topk < 1:
        raise ValueError(f'topk must be at least 1, got {topk}.')
    scores, targets = check_scores(scores, targets)
    threshold = check_threshold(threshold, scores.shape[1])
    ranking = ranking_figures(scores, targets, areas)
    decisions = threshold_figures(scores.__getitem__, targets, threshold, topk, topk_gated)
    return {'mAP': ranking['mAP'], **decisions, **ranking}


def mean_bce(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean binary cross-entropy over the known targets, 0 if there are none."""
    if not logits.size:
        return 0.0
    known = [(targets[rows] >= 0).sum(axis=1) for rows in _row_parts(targets.shape)]
    ends = np.cumsum(np.concatenate(known))

    def add(start: int, stop: int) -> np.float64:
        """Sum over known targets in halves, as numpy adds up a whole array."""
        if stop - start > PART:
            middle = start + (stop - start) // 16 * 8
            return add(start, middle) + add(middle, stop)
        rows = slice(np.searchsorted(ends, start, side='right'), np.searchsorted(ends, stop) + 1)
        against = np.where(targets[rows] > 0, -logits[rows], logits[rows])[targets[rows] >= 0]
        before = ends[rows.start - 1] if rows.start else 0
        return np.logaddexp(0, against[start - before : stop - before], dtype=np.float64).sum()

    return float(ratio(add(0, ends[-1]), ends[-1]))
