"""Evaluation after an epoch: metrics of the weights and of their average, and which of them are better."""

import copy
import sys
from contextlib import AbstractContextManager
from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np
import torch

from timm import utils
from timm.task import evaluation_sample_limit

from ..data.check import check_negatives
from ..data.progress_bar import ProgressBar
from ..inference.device import Process
from ..inference.predictor import compute_logits
from ..metrics import MultiLabelEvaluator, chance_level
from ..metrics.ranks import on_first_rank
from .checkpoint import TrainTask
from .config import TrainConfig
from .epoch import CHECK_IMAGES, TrainingError

__all__ = ['METRICS', 'EpochResult', 'evaluate_epoch']

METRICS = ('loss', 'bce', *(name for name in MultiLabelEvaluator.metric_names if name != 'loss'))


class EpochResult(NamedTuple):
    """Evaluation of the better weights after an epoch.

    Attributes:
        weights: Which they are, 'raw' or 'average'.
        metrics: Those of `METRICS`: `loss` is the training's over the images of evaluation, `bce` the binary
            cross-entropy, which `MultiLabelEvaluator` calls loss.
        chance: mAP of scores that ignore the image.
    """

    weights: str
    metrics: Dict[str, float]
    chance: float


@torch.no_grad()
def _mean_criterion(task: TrainTask, logits: np.ndarray, targets: np.ndarray, batch_size: int) -> float:
    """Mean of the training's loss over images, in batches as it sees them."""
    criterion, total = copy.deepcopy(task.criterion), 0.0  # a loss may count its calls
    for start in range(0, len(logits), batch_size):
        batch = slice(start, start + batch_size)
        rows = (torch.from_numpy(array[batch]).float().to(task.device) for array in (logits, targets))
        total += criterion(*rows).item() * len(logits[batch])
    return total / len(logits)


def _evaluate(
    epoch: int,
    task: TrainTask,
    loader: Any,
    autocast: Callable[[], AbstractContextManager],
    config: TrainConfig,
    process: Process,
    weights: str,
) -> EpochResult:
    """Evaluate the model with 'raw' or 'average' weights."""
    model = task.get_eval_model(ema=weights == 'average')
    model = getattr(model, 'module', model)  # without DistributedDataParallel or averaging
    if process.is_distributed and config.dist_bn:
        utils.distribute_bn(model, process.world_size, reduce=config.dist_bn == 'reduce')
    evaluator = MultiLabelEvaluator(process.device, max_samples=evaluation_sample_limit(loader))
    try:
        with ProgressBar(len(loader.dataset), f'evaluating epoch {epoch + 1}', hidden=not sys.stdout.isatty()) as bar:
            for logits, target in compute_logits(model, loader, autocast, channels_last=config.channels_last):
                evaluator.update(logits, target)
                bar.update(len(logits) * process.world_size)
        metrics = evaluator.compute(distributed=process.is_distributed)
    except ValueError as error:  # scores of nan
        if evaluator.images == 0:
            raise TrainingError(f'None of the evaluation images could be read: {CHECK_IMAGES}.') from error
        problem = f'Epoch {epoch + 1} cannot be evaluated: {error}'
        raise TrainingError(f'{problem} The last checkpoint is kept, a lower --lr may help.') from error

    def from_rows() -> Tuple[float, float]:
        logits, targets, _ = evaluator.gathered
        check_negatives(targets, 'the evaluation split')  # what a stream has is known only now
        return _mean_criterion(task, logits, targets, config.validation_batch_size), chance_level(targets)

    metrics['bce'] = metrics['loss']
    metrics['loss'], chance = on_first_rank(from_rows, process.device)
    if process.is_primary:
        what = ', average of the weights' if weights == 'average' else ''
        what += ' (Warning: on the images of training)' if task.facts.get('is_training_split') else ''
        print(
            f'epoch {epoch + 1}{what}: mAP {metrics["mAP"]:.2f} (chance {chance:.2f}), '
            f'validation loss {metrics["loss"]:.3f}',
            flush=True,
        )
    return EpochResult(weights, {name: metrics[name] for name in METRICS}, chance)


def evaluate_epoch(
    epoch: int,
    task: TrainTask,
    loader: Any,
    autocast: Callable[[], AbstractContextManager],
    config: TrainConfig,
    process: Process,
) -> EpochResult:
    """Evaluate after an epoch, with the better weights by `eval_metric`: raw, or averaged if the run averages them.

    Raises:
        TrainingError: If scores are not finite.
    """
    kinds = ('raw', 'average') if config.evaluates_average else ('raw',)
    results = [_evaluate(epoch, task, loader, autocast, config, process, weights) for weights in kinds]
    choose = min if config.is_lower_better else max
    return choose(results, key=lambda result: result.metrics[config.eval_metric])  # of equal ones the raw
