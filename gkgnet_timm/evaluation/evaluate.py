"""Evaluation on a labelled split, the same in training and in validation."""

import argparse
import os
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Union

import numpy as np
import torch
import torch.nn as nn

from timm import utils
from timm.data import resolve_input_data_config
from timm.task import evaluation_sample_limit

from ..data import MultiLabelDataset, create_dataset, create_eval_loader
from ..data.check import check_files, describe
from ..data.splits import data_kwargs
from ..metrics import MultiLabelEvaluator, multilabel_metrics
from ..runtime import blame
from ..weights.load import load_model
from .scores_file import load_scores
from .thresholds import load_threshold

__all__ = ['Evaluation', 'autocast_context', 'evaluate', 'evaluate_model', 'evaluate_scores']

PREPROCESSING = ('input_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')


class Evaluation(NamedTuple):
    """Figures and scores of a model on a split, by kind of its weights: 'raw', and 'ema' for their average."""

    metrics: Dict[str, Dict[str, float]]
    scores: Dict[str, np.ndarray]  # probabilities (N, L)
    targets: np.ndarray  # (N, L)
    files: List[str]
    class_names: List[str]
    threshold: Union[float, np.ndarray]
    origin: Dict[str, Any]  # what the figures are of


def autocast_context(device: torch.device, amp: bool, amp_dtype: str) -> Callable[[], AbstractContextManager]:
    """Maker of the context that forward passes run in."""
    return partial(torch.autocast, device.type, dtype=getattr(torch, amp_dtype), enabled=amp)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Any,
    evaluator: MultiLabelEvaluator,
    autocast: Callable[[], AbstractContextManager],
    args: argparse.Namespace,
    flip: bool = False,
) -> Dict[str, float]:
    """Metrics of a model over a loader, in percent; with flip of the mean logits of images and their mirror images."""
    model.eval()
    for images, target in loader:
        if args.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast():
            logits = model(images).float()
            if flip:
                logits = (logits + model(images.flip(-1)).float()) / 2
        evaluator.update(logits, target)
    return evaluator.compute(distributed=args.distributed)


def _describe_preprocessing(config: Dict[str, Any], expected: Dict[str, Any]) -> str:
    """The preprocessing in force, and where it is another one than the model was trained for."""
    lines = ['preprocessing: ' + ', '.join(f'{name} {config[name]}' for name in PREPROCESSING)]
    for name in PREPROCESSING:
        if config[name] != expected[name]:
            lines.append(f'Warning: {name} is {config[name]}, the model was trained for {expected[name]}.')
    return '\n'.join(lines)


def _create_dataset(args: argparse.Namespace) -> Any:
    """The split of the flags, whose classes are those of the checkpoint."""
    kwargs = data_kwargs(args)
    if '/' in args.dataset:
        kwargs.update(batch_size=args.batch_size, num_samples=args.num_samples)
    if args.dataset in ('csv', 'gkgnet'):  # need not have labels of all classes
        kwargs.update(class_names=args.class_names)
    bad_images = os.devnull if args.on_bad_image == 'skip' else None
    dataset = create_dataset(split=args.split, images=args.images, bad_images=bad_images, **kwargs)
    if utils.is_primary(args):
        print(describe(dataset, args.split))
    if args.class_names is not None and args.class_names != dataset.class_names:
        raise ValueError(
            f'Checkpoint {args.checkpoint!r} knows {len(args.class_names)} classes ({", ".join(args.class_names[:3])}, '
            f'...), split {args.split!r} has {len(dataset.class_names)} ({", ".join(dataset.class_names[:3])}, ...).'
        )
    if not bad_images:
        check_files(dataset)
    return dataset


def evaluate_model(args: argparse.Namespace) -> Evaluation:
    """Evaluate the model of the flags of `validate.py`; raw weights and their average where a checkpoint has both."""
    device = torch.device(args.device)
    dataset = _create_dataset(args)
    num_classes = len(dataset.class_names)
    threshold = load_threshold(args.threshold, dataset.class_names)
    model = load_model(args, num_classes)
    with blame('--mean, --std'):
        config = resolve_input_data_config(model, args=vars(args))
    if utils.is_primary(args):
        trained_size = args.trained.get('img_size')
        print(_describe_preprocessing(config, resolve_input_data_config(model, args=dict(img_size=trained_size))))
    loader = create_eval_loader(dataset, config, args.batch_size, device, args.workers, args.distributed)
    autocast = autocast_context(device, args.amp, args.amp_dtype)

    metrics, scores = {}, {}
    for kind in ('raw', 'ema') if args.trained.get('has_ema') else ('raw',):
        model = model if kind == 'raw' else load_model(args, num_classes, use_ema=True)
        model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
        evaluator = MultiLabelEvaluator(device, max_samples=evaluation_sample_limit(loader), threshold=threshold)
        try:
            metrics[kind] = evaluate(model, loader, evaluator, autocast, args, args.flip)
        except ValueError as error:
            raise ValueError(f'{args.checkpoint or args.model!r} can not be evaluated: {error}') from error
        logits, targets, positions = evaluator.gathered
        with np.errstate(over='ignore'):  # of exp, whose inf is a score of 0
            scores[kind] = 1 / (1 + np.exp(-logits.astype(np.float64)))  # exact enough to rank as the logits do
    files = [str(position) for position in positions]
    if isinstance(dataset, MultiLabelDataset):
        if utils.is_primary(args):
            for position in sorted(set(range(len(dataset))) - set(positions.tolist())):
                print(f'Left out, as it can not be read: {dataset.filename(position, absolute=True)}')
        files = [str(dataset.filename(position)) for position in positions]
        areas = getattr(dataset.reader, 'areas', None)
        for kind in scores if areas is not None else ():
            figures = multilabel_metrics(scores[kind], targets, threshold, areas=areas[positions])
            metrics[kind].update({name: figures[name] for name in ('AP_small', 'AP_medium', 'AP_large')})
    origin = {name: getattr(args, name) for name in ('model', 'checkpoint', 'dataset', 'split')}
    origin.update(img_size=config['input_size'][-1], crop_mode=config['crop_mode'])
    return Evaluation(metrics, scores, targets, files, dataset.class_names, threshold, origin)


def evaluate_scores(args: argparse.Namespace) -> Evaluation:
    """Evaluate the file of scores of the flags."""
    scores, targets, files, class_names = load_scores(args.scores_in)
    threshold = load_threshold(args.threshold, class_names)
    # as those of a model, which hold probabilities of float32 against the threshold and rank by more digits
    metrics = multilabel_metrics(scores.astype(np.float32), targets, threshold)
    ranking = multilabel_metrics(scores, targets, threshold)
    metrics.update({name: ranking[name] for name in ('mAP', 'mAP_present')})
    del metrics['per_class_ap']
    origin = dict(scores=args.scores_in)
    return Evaluation(dict(raw=metrics), dict(raw=scores), targets, files, class_names, threshold, origin)
