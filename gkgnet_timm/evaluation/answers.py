"""Which output of a model answers for which class: average precision of every output against every class."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..metrics import chance_by_class
from ..metrics.figures import check_scores, ratio

__all__ = ['AnswerOrder', 'find_order', 'find_permutation', 'precision_matrix']

LEAD = 3.0  # standard errors by which the output of a class must be ahead of the next one
DOUBT = 0.75  # a sum of squares, as of three more images that differ by half: a few that agree are no proof
PERMUTED_GAIN, PERMUTED_LEAD = 0.25, 6.0  # of the way from chance to 1, and in standard errors
MOST_WORK = 1 << 23  # outputs x (images + labels) in half a second


class AnswerOrder(NamedTuple):
    """The outputs of a model that rank the images of each of L classes best.

    Attributes:
        outputs: Output (L,) of each class.
        rivals: Outputs (L,) that are next best.
        ap: Average precisions (2, L) of both, in percent.
        lead: By how many standard errors the first is ahead (L,).
        positives: Images with the class (L,).
    """

    outputs: np.ndarray
    rivals: np.ndarray
    ap: np.ndarray
    lead: np.ndarray
    positives: np.ndarray

    @property
    def is_ahead(self) -> np.ndarray:
        """Whether the first output is ahead beyond chance (L,)."""
        return self.lead >= LEAD

    @property
    def is_shared(self) -> np.ndarray:
        """Whether it is so for another class, too (L,)."""
        counts = np.bincount(self.outputs[self.is_ahead], minlength=len(self.outputs))
        return self.is_ahead & (counts[self.outputs] > 1)

    @property
    def is_certain(self) -> np.ndarray:
        """Whether class and output are each other's only match (L,)."""
        return self.is_ahead & ~self.is_shared


class _Labels:
    """Known labels as pairs of class and image, so that images without a class cost nothing."""

    def __init__(self, targets: np.ndarray):
        self.images, self.num_classes = targets.shape
        self.classes, self.rows = np.nonzero(targets.T > 0)
        self.unknown = np.nonzero(targets.T < 0)
        self.count = np.bincount(self.classes, minlength=self.num_classes)
        self.first = np.cumsum(self.count) - self.count

    def _keys(self, classes: np.ndarray, reach: np.ndarray) -> np.ndarray:
        return classes * (self.images + 1) + reach

    def precisions(self, score: np.ndarray) -> np.ndarray:
        """Precision of a score (N,) at each pair (P,): of the images that score as high, the share of the class."""
        order = np.argsort(-score)
        ranked = score[order]
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1) + 1  # equal scores: one threshold
        reach = np.empty(len(order), dtype=int)
        reach[order] = np.repeat(ends, np.diff(ends, prepend=0))
        key = self._keys(self.classes, reach[self.rows])
        order = np.argsort(key)  # by class, then by score
        key = key[order]
        hits = np.searchsorted(key, key, side='right') - self.first[self.classes]
        images = reach[self.rows[order]]
        classes, rows = self.unknown
        if len(rows):
            unknown = np.sort(self._keys(classes, reach[rows]))
            images = images - np.searchsorted(unknown, key, side='right')
            images += np.searchsorted(unknown, self._keys(self.classes, 0), side='right')
        precision = np.empty(len(order))
        precision[order] = hits / images
        return precision

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean by class (C,) of values at pairs (P,), 0 for a class without any."""
        return ratio(np.bincount(self.classes, values, self.num_classes), self.count)

    def compare(self, first: np.ndarray, second: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Difference by class (C,) of the means of precisions (P,), and the square of its standard error."""
        difference = first - second
        mean = self.mean(difference)
        variance = self.mean((difference - mean[self.classes]) ** 2)
        return mean, ratio(variance + ratio(DOUBT, self.count), self.count)


def precision_matrix(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute the average precision in [0, 1] of every output for every class.

    Args:
        scores: (N, L), as in `average_precision`, of which this is the diagonal for L = C.
        targets: (N, C), 1 for a label, 0 for none, -1 for unknown.

    Returns:
        (L, C). 0 for a class without positives.
    """
    labels = _Labels(targets)
    return np.stack([labels.mean(labels.precisions(score)) for score in scores.T])


def _above_chance(ap: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Scale average precisions (..., L) so that 0 is chance and 1 is without fault, for frequent and rare classes."""
    return ratio(ap - chance, np.broadcast_to(1 - chance, ap.shape))


def _precisions_of(labels: _Labels, scores: np.ndarray, choices: Sequence[np.ndarray]) -> np.ndarray:
    """Precisions (K, P) at each pair, by the outputs (L,) that each of K choices has for the classes."""
    found = np.zeros((len(choices), len(labels.rows)))
    outputs = np.stack([choice[labels.classes] for choice in choices])
    for output in np.unique(outputs):
        of_output = outputs == output
        found[of_output] = np.broadcast_to(labels.precisions(scores[:, output]), found.shape)[of_output]
    return found


def find_order(scores: np.ndarray, targets: np.ndarray) -> AnswerOrder:
    """Find the output of each class by the answers of a model.

    It is the one of highest average precision. How far it is ahead of the next one, in standard errors of the
    difference at the images of the class, says whether that is certain.

    Args:
        scores: (N, L), logits or probabilities, L > 1.
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown.

    Raises:
        ValueError: If the arrays are malformed, or there is one class only.
    """
    scores, targets = check_scores(scores, targets)
    if targets.shape[1] < 2:
        raise ValueError('A single class has no order to find: give scores of several.')
    labels = _Labels(targets)
    ap = precision_matrix(scores, targets)
    outputs, rivals = np.argsort(-ap, axis=0, kind='stable')[:2]
    difference, variance = labels.compare(*_precisions_of(labels, scores, (outputs, rivals)))
    classes = np.arange(targets.shape[1])
    both = 100 * np.stack([ap[outputs, classes], ap[rivals, classes]])
    return AnswerOrder(outputs, rivals, both, ratio(difference, np.sqrt(variance)), labels.count)


def _assign(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Give each class (L,) an output of its own: again and again those that are each other's best of what is left.

    Args:
        values: (L, P), of each output for the classes that are present.
        present: (L,) bool. Others keep their own output unless it is taken.
    """
    values = values.copy()
    chosen, classes = np.full(values.shape[1], -1), np.arange(values.shape[1])
    while (chosen < 0).any():
        best = values.argmax(axis=0)
        found = classes[(chosen < 0) & (values.argmax(axis=1)[best] == classes)]
        chosen[found] = best[found]
        values[chosen[found]] = -np.inf
        values[:, found] = -np.inf
    outputs, is_free = np.arange(len(values)), np.ones(len(values), dtype=bool)
    outputs[present], is_free[chosen] = chosen, False
    outputs[~present & ~is_free] = np.flatnonzero(present & is_free)
    return outputs


def _cycles(outputs: np.ndarray) -> List[List[int]]:
    """Classes that have exchanged their outputs (L,) among each other."""
    cycles, left = [], set(np.flatnonzero(outputs != np.arange(len(outputs))).tolist())
    while left:
        cycle = [min(left)]
        while (following := int(outputs[cycle[-1]])) != cycle[0]:
            cycle.append(following)
        cycles.append(cycle)
        left.difference_update(cycle)
    return cycles


def find_permutation(scores: np.ndarray, targets: np.ndarray) -> Optional[np.ndarray]:
    """Find another one-to-one order of the outputs that fits the labels much better than the given one.

    It is chosen on every other image and must hold on the rest. Of many images or classes, evenly spaced images are
    looked at, so that it takes less than a second.

    Args:
        scores: (N, L), logits or probabilities.
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown.

    Returns:
        The output (L,) of each class, None if the given order may well be right.
    """
    scores, targets = check_scores(scores, targets)
    work = scores.size + np.count_nonzero(targets) * scores.shape[1]
    step = 1 + work // (2 * MOST_WORK)
    scores, targets = scores[::step], targets[::step]
    if len(scores) < 2:
        return None
    labels = _Labels(targets[1::2])
    chance = chance_by_class(targets)
    present = (targets[::2] > 0).any(axis=0) & (labels.count > 0) & (chance < 1)
    ap = _above_chance(precision_matrix(scores[::2], targets[::2, present]), chance[present])
    outputs, classes = _assign(ap, present), np.arange(len(ap))
    pairs = outputs[present], np.arange(ap.shape[1])
    value = ap[pairs]
    ap[pairs] = -np.inf
    rivals, lead = classes.copy(), np.zeros(len(ap))
    rivals[present] = ap.argmax(axis=0)  # the given output, or one that is better
    lead[present] = value - ap.max(axis=0)
    moved = np.zeros(len(ap), dtype=bool)
    for cycle in _cycles(outputs):
        moved[cycle] = lead[cycle].sum() >= PERMUTED_GAIN * max(1, present[cycle].sum())
    counted = moved & present
    if not counted.any():
        return None
    lead, variance = labels.compare(*_precisions_of(labels, scores[1::2], (outputs, rivals)))
    scale = ratio(1, 1 - chance) * counted
    total, error = (lead * scale).sum(), np.sqrt((variance * scale**2).sum())
    holds = total >= max(PERMUTED_GAIN * counted.sum(), PERMUTED_LEAD * error)
    outputs = np.where(moved, outputs, classes)
    return outputs if holds else None
