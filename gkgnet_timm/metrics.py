"""Multi-label metrics of the published GKGNet evaluation, for whole arrays or for batches and ranks."""

from collections import OrderedDict
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.distributed as dist

from timm.task import MultiLabelClassificationEvaluator

__all__ = [
    'MultiLabelEvaluator',
    'average_precision',
    'chance_by_class',
    'chance_level',
    'check_scores',
    'check_threshold',
    'multilabel_metrics',
    'rank',
    'ratio',
]

Array = Union[np.ndarray, torch.Tensor]
Threshold = Union[float, Sequence[float], Array]
AREA_RANGES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, np.inf)}  # px^2, COCO's
DROPPED = -2  # stored target of an image that keeps its position in the data set, but has no scores


def _to_numpy(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = x.float() if x.dtype == torch.bfloat16 else x  # numpy has none
    return np.asarray(x)


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
    unscored = ~np.isfinite(scores) if finite else np.isnan(scores)
    if unscored.any():
        row, column = np.argwhere(unscored)[0]
        raise ValueError(f'scores have nan{" or inf" if finite else ""}, first in row {row}, column {column}.')
    invalid = (targets != 0) & (targets != 1) & (targets != -1)
    if invalid.any():
        row, column = np.argwhere(invalid)[0]
        raise ValueError(f'targets must be -1, 0 or 1, got {targets[row, column]} in row {row}, column {column}.')
    return scores, targets.astype(np.int8)


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


def rank(scores: np.ndarray, positive: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores (T,), highest first, with the positives and the images (T,) that reach each of them.

    Args:
        scores: (N,).
        positive: (N,) bool.
    """
    order = np.argsort(-scores)
    scores = scores[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    return scores[last], positive[order].cumsum()[last], last + 1


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
    for i, (score, target) in enumerate(zip(scores.T, targets.T)):
        known = target >= 0
        positive = target[known] > 0
        if not positive.any():
            continue
        _, hits, images = rank(score[known], positive)
        # one summand per threshold, not per image: the sum has the same bits for any order of the images
        ap[i] = (np.diff(hits, prepend=0) * hits / images).sum() / hits[-1]
    return ap


def chance_by_class(targets: np.ndarray) -> np.ndarray:
    """Average precision (L,) in [0, 1] of scores that ignore the image: the share of positives among known targets."""
    return ratio((targets > 0).sum(axis=0), (targets >= 0).sum(axis=0))


def chance_level(targets: np.ndarray) -> float:
    """mAP in percent of scores that ignore the image."""
    return float(100 * chance_by_class(targets).mean())


def _ranking_figures(scores: np.ndarray, targets: np.ndarray, areas: Optional[Array] = None) -> Dict[str, Any]:
    ap = 100 * average_precision(scores, targets)
    present = (targets > 0).any(axis=0)
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


def _decision_figures(predicted: np.ndarray, targets: np.ndarray) -> Dict[str, float]:
    positive = targets > 0
    tp, predictions, positives = (x.sum(axis=0) for x in (predicted & positive, predicted, positive))
    figures = {}
    for kind, precision, recall in (
        ('C', ratio(tp, predictions).mean(), ratio(tp, positives).mean()),
        ('O', ratio(tp.sum(), predictions.sum()), ratio(tp.sum(), positives.sum())),
    ):
        f1 = ratio(2 * precision * recall, precision + recall)
        figures.update({f'{kind}{name}': float(100 * x) for name, x in zip(('P', 'R', 'F1'), (precision, recall, f1))})
    return figures


def _threshold_figures(
    scores: np.ndarray, targets: np.ndarray, threshold: np.ndarray, topk: int, topk_gated: bool
) -> Dict[str, float]:
    # compare in the type of the scores: a threshold taken from a float32 score must let that score pass
    predicted = scores >= threshold.astype(scores.dtype)
    k = min(topk, scores.shape[1])
    if topk_gated:
        kth = np.partition(scores, -k, axis=1)[:, -k, None]
        top = (scores >= kth) & predicted
    else:
        top = np.zeros_like(predicted)
        np.put_along_axis(top, np.argsort(-scores, axis=1, kind='stable')[:, :k], True, axis=1)
    figures = _decision_figures(predicted, targets)
    top_figures = _decision_figures(top, targets)
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
        mAP: Mean of the average precisions. mAP_present: Mean over the classes with positives.
        CP, CR, OP, OR: Precision and recall, mean over classes (C) and overall (O).
        CF1, OF1: Harmonic means of CP and CR and of OP and OR.
        CP_top3 and so on (with topk=3): The same for the top-k predictions.
        per_class_ap: Average precision of each class (L,).
        AP_small, AP_medium, AP_large: mAP over positives of area below 32^2, from 32^2 to below 96^2, and from 96^2 on,
            against all negatives; other positives are not ranked. Only with areas, and of ranges that have a positive.

    Raises:
        ValueError: For input of other shapes or values.
    """
    if topk < 1:
        raise ValueError(f'topk must be at least 1, got {topk}.')
    scores, targets = check_scores(scores, targets)
    threshold = check_threshold(threshold, scores.shape[1])
    ranking = _ranking_figures(scores, targets, areas)
    return {'mAP': ranking['mAP'], **_threshold_figures(scores, targets, threshold, topk, topk_gated), **ranking}


def _gather_rows(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Gather the rows of all ranks on the CPU, in the order of the data set.

    timm's OrderedDistributedSampler deals rows r, r + W, r + 2W, ... to rank r of W. If the row counts do not match
    that deal, as with streams, the rows follow rank by rank.
    """
    world_size = dist.get_world_size()
    shape = torch.tensor(rows.shape, device=device)
    shapes = [torch.empty_like(shape) for _ in range(world_size)]
    dist.all_gather(shapes, shape)
    counts, widths = torch.stack(shapes).T.tolist()
    padded = torch.zeros(max(counts), max(widths), dtype=rows.dtype, device=device)  # a rank without rows has no width
    padded[: rows.shape[0], : rows.shape[1]] = rows.to(device)
    gathered = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(gathered, padded)
    parts = [part[:count].cpu() for part, count in zip(gathered, counts)]

    whole = torch.cat(parts)
    if all(count == len(range(rank, len(whole), world_size)) for rank, count in enumerate(counts)):
        for rank, part in enumerate(parts):
            whole[rank::world_size] = part
    return whole


def _mean_bce(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean binary cross-entropy over the known targets, 0 if there are none."""
    against = np.where(targets > 0, -logits, logits)[targets >= 0]
    return float(ratio(np.logaddexp(0, against, dtype=np.float64).sum(), against.size))


class MultiLabelEvaluator(MultiLabelClassificationEvaluator):
    """Compute `multilabel_metrics` over batches and ranks, and the binary cross-entropy over known targets.

    Logits are ranked, because their probabilities tie more often; float32 probabilities are compared with the
    threshold. All figures, the loss included, come from the gathered rows, so they have the same bits for any batch
    size and number of ranks. Rows are kept on the CPU, 5 bytes per class. After `compute`, `gathered` holds the rows of
    all images that were not dropped: logits (N, L), targets (N, L) and positions in the data set (N,).

    Args:
        device: Device of the collectives in `compute`.
        max_samples: Rows of this rank without the sampler's padding, see timm's `evaluation_sample_limit`.
        threshold: As in `multilabel_metrics`.
    """

    default_metric = 'mAP'
    metric_names = ('loss', 'mAP', 'mAP_present', 'CF1', 'OF1', 'CP', 'CR', 'OP', 'OR') + tuple(
        f'{name}_top3' for name in ('CP', 'CR', 'OP', 'CF1', 'OR', 'OF1')
    )

    def __init__(
        self,
        device: Union[None, str, torch.device] = None,
        *,
        max_samples: Optional[int] = None,
        threshold: Threshold = 0.5,
    ) -> None:
        super().__init__(device, max_samples=max_samples)
        self.threshold = check_threshold(threshold, _to_numpy(threshold).size)

    def reset(self) -> None:
        super().reset()
        self.outputs: List[torch.Tensor] = []
        self.targets: List[torch.Tensor] = []
        self.gathered: Optional[Tuple[np.ndarray, np.ndarray, np.ndarray]] = None

    @torch.no_grad()
    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, L).
            target: (B, L) as in `multilabel_metrics`. A row of nan marks an unreadable image: it is dropped from all
                figures but keeps its position in the data set.
        """
        if logits.ndim != 2 or target.shape != logits.shape:
            shapes = f'{tuple(logits.shape)} and {tuple(target.shape)}'
            raise ValueError(f'logits and target must both be (images, classes), got {shapes}.')
        check_threshold(self.threshold, logits.shape[1])  # now, not after the whole data set
        logits, target = self._prepare(logits, target)  # cuts padding; dropped rows count
        target = target.float().cpu()
        dropped = target.isnan().all(dim=1, keepdim=True)
        invalid = (target != 0) & (target.abs() != 1) & ~dropped
        if invalid.any():
            row, column = invalid.nonzero()[0].tolist()
            value = target[row, column].item()
            raise ValueError(f'targets must be -1, 0 or 1, got {value} in row {row}, column {column} of a batch.')
        self.outputs.append(logits.cpu())
        self.targets.append(target.masked_fill(dropped, DROPPED).to(torch.int8))

    def _rows(self, distributed: bool) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        logits = torch.cat(self.outputs) if self.outputs else torch.zeros(0, 0)
        targets = torch.cat(self.targets) if self.targets else torch.zeros(0, 0, dtype=torch.int8)
        if distributed:
            logits, targets = _gather_rows(logits, self.device), _gather_rows(targets, self.device)
        logits, targets = logits.numpy(), targets.numpy()
        positions = np.flatnonzero((targets != DROPPED).all(axis=1))
        return logits[positions], targets[positions], positions

    def summary(self) -> Dict[str, float]:
        """Compute the loss over the rows of this rank so far, without collectives."""
        logits, targets, _ = self._rows(distributed=False)
        return OrderedDict(loss=_mean_bce(logits, targets))

    def compute(self, distributed: bool = False) -> Dict[str, float]:
        """Compute the figures of `metric_names`, over the rows of all ranks if distributed.

        Raises:
            ValueError: If logits are not finite, or there are no rows.
        """
        logits, targets, _ = self.gathered = self._rows(distributed)
        figures = _ranking_figures(*check_scores(logits, targets, finite=True))
        scores = torch.from_numpy(logits).sigmoid().numpy()
        figures.update(_threshold_figures(scores, targets, self.threshold, topk=3, topk_gated=True))
        figures['loss'] = _mean_bce(logits, targets)
        return OrderedDict((name, figures[name]) for name in self.metric_names)
