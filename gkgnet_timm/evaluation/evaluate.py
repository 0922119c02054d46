"""Evaluation on a labelled split, the same in training and in validation."""

from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union

import numpy as np
import torch
import torch.nn as nn
from PIL import Image

from timm.task import evaluation_sample_limit

from ..data import MultiLabelDataset, create_eval_loader
from ..data.check import check_labels, check_negatives
from ..data.progress_bar import ProgressBar
from ..inference.device import autocast_context, check_device
from ..inference.predictor import compute_logits
from ..metrics import MultiLabelEvaluator, Threshold, multilabel_metrics
from ..metrics.ranks import on_first_rank, together
from ..runtime import default_workers
from ..weights.preprocessing import resolve_preprocessing
from ..weights.thresholds import load_threshold
from .scores_file import exact_scores, load_scores

__all__ = ['SAME_SPLIT', 'Evaluation', 'evaluate_dataset', 'evaluate_scores']


SAME_SPLIT = 'these are the images of training, the figures do not hold for others.'


class Evaluation(NamedTuple):
    """Metrics in percent, and the rows (N, L) they come from.

    Attributes:
        metrics: Those of `multilabel_metrics` without `per_class_ap`; of a model also `bce`, the mean binary
            cross-entropy over known targets, which is no percentage.
        scores: Probabilities (N, L).
        ranking: What the APs are of, (N, L): logits, as probabilities near 1 tie.
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown.
        files: N names, or positions in a stream.
        class_names: L names.
        threshold: Lowest score of a predicted label.
        unreadable: Files that were left out.
        read_image: Reads the upright image of a row; it gives None if that is gone. None without a data set of files.
    """

    metrics: Dict[str, float]
    scores: np.ndarray
    ranking: np.ndarray
    targets: np.ndarray
    files: List[str]
    class_names: List[str]
    threshold: Threshold
    unreadable: List[str] = []
    read_image: Optional[Callable[[int], Optional[Image.Image]]] = None


def _read_row(dataset: MultiLabelDataset, positions: np.ndarray, row: int) -> Optional[Image.Image]:
    return dataset.read_image(int(positions[row]))


def _add_rows(
    evaluation: Evaluation, dataset: Any, logits: np.ndarray, targets: np.ndarray, positions: np.ndarray
) -> Evaluation:
    """Return an evaluation with its rows, and with the metrics that need more of the data set than these."""
    check_negatives(targets, getattr(dataset, 'split', 'the data set'))
    rows = evaluation._replace(scores=exact_scores(logits), ranking=logits, targets=targets)
    if not isinstance(dataset, MultiLabelDataset):
        return rows._replace(files=[str(position) for position in positions])
    skipped = sorted(set(range(len(dataset))) - set(positions.tolist()))
    metrics, areas = dict(evaluation.metrics), getattr(dataset.reader, 'areas', None)
    if areas is not None:
        figures = multilabel_metrics(logits, targets, areas=areas[positions])
        metrics.update({name: value for name, value in figures.items() if name.startswith('AP_')})
    return rows._replace(
        metrics=metrics,
        files=[str(dataset.filename(position)) for position in positions],
        unreadable=[str(dataset.filename(position, absolute=True)) for position in skipped],
        read_image=partial(_read_row, dataset, positions),
    )


def evaluate_dataset(
    model: nn.Module,
    dataset: Any,
    *,
    batch_size: int = 32,
    workers: Optional[int] = None,
    device: Union[None, str, torch.device] = None,
    amp: bool = False,
    amp_dtype: str = 'bfloat16',
    channels_last: bool = False,
    flip: bool = False,
    threshold: Threshold = 0.5,
    data_config: Optional[Dict[str, Any]] = None,
) -> Evaluation:
    """Evaluate a model on a data set. In a distributed run, every process gets the metrics over all images, the first
    one alone the rows.

    Arguments that are not listed here are those of `predict_images`.

    Args:
        model: Model whose scores are in the order of the data set's classes. It is moved to the device.
        dataset: Data set of `open_split` or `create_dataset`.
        batch_size: Images in a batch of this process.
        flip: Average the logits of each image and its mirror image.
        threshold: Lowest score of a predicted label in (0, 1), or one for each class (L,).
        data_config: Preprocessing, as `resolve_preprocessing` returns it (default: that of the model).

    Raises:
        BadImageError: If an image cannot be read and the data set does not skip such images.
        ValueError: If no label is known to be absent, or scores are not finite or not as many as the classes.
    """
    distributed = torch.distributed.is_initialized()
    with together():
        check_labels(dataset)
        device = check_device(device)
        config = data_config or resolve_preprocessing(model)
        workers = default_workers() if workers is None else workers
        if hasattr(dataset, 'decoder'):
            dataset.decoder = dataset.decoder.for_model(model.pretrained_cfg)
        loader = create_eval_loader(dataset, config, batch_size, device, workers, distributed)
        model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
        evaluator = MultiLabelEvaluator(device, max_samples=evaluation_sample_limit(loader), threshold=threshold)
        autocast = autocast_context(device, amp, amp_dtype)
        processes = torch.distributed.get_world_size() if distributed else 1
        with ProgressBar(len(dataset), 'evaluating') as bar:
            for logits, target in compute_logits(model, loader, autocast, channels_last=channels_last, flip=flip):
                evaluator.update(logits, target)
                bar.update(len(logits) * processes)
    metrics = {'bce' if name == 'loss' else name: value for name, value in evaluator.compute(distributed).items()}
    none = np.zeros((0, len(dataset.class_names)), dtype=np.float32)
    evaluation = Evaluation(metrics, none, none, none.astype(np.int8), [], dataset.class_names, threshold)

    def add_rows() -> Dict[str, float]:
        nonlocal evaluation
        evaluation = _add_rows(evaluation, dataset, *evaluator.gathered)
        return evaluation.metrics

    metrics = on_first_rank(add_rows, device)
    return evaluation._replace(metrics=metrics)


def evaluate_scores(path: Union[str, Path], threshold: Union[str, float, Path] = 0.5) -> Evaluation:
    """Evaluate a file of `save_scores`, without a model.

    Args:
        path: File of scores.
        threshold: Lowest score of a predicted label in (0, 1), or a calibration file.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the file of scores or the threshold is malformed.
    """
    scores, ranking, targets, files, class_names = load_scores(path)
    check_negatives(targets, path)
    threshold = load_threshold(threshold, class_names)
    # as for a model: probabilities in float32 are compared with the threshold, more digits are ranked
    metrics = multilabel_metrics(scores.astype(np.float32), targets, threshold)
    figures = multilabel_metrics(ranking, targets)
    metrics.update({name: figures[name] for name in ('mAP', 'mAP_present')})
    del metrics['per_class_ap']
    return Evaluation(metrics, scores, ranking, targets, files, class_names, threshold)
