"""Measure how many images per second the training pipelines load, and a model trains on."""

import statistics
import time
from dataclasses import replace
from typing import Any, Dict, List

import torch
from torch.utils.data import Dataset

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data import create_train_loader, create_train_transform, start_epoch
from .case import Case, create_model, create_step
from .floor import seconds_of

__all__ = ['BATCH_SIZE', 'MODEL', 'benchmark_loading']

BATCH_SIZE = 16
MODEL = Case('gkgnet_448', 448, batch_size=2, is_training=True)


def benchmark_loading(dataset: Dataset[Any], img_size: int, workers: int = 2, repeat: int = 5) -> List[Dict[str, Any]]:
    """Load a data set with the published training pipeline and with timm's default one, and train `MODEL`, in turn.

    Returns:
        A row of figures for each pipeline: medians of `repeat` epochs, after one that warms up. `model_images_per_s` is
        of steps on ready batches on the CPU: a pipeline that is not far above it holds up training.
    """
    size = (img_size, img_size)
    config = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, input_size=(3, *size))
    published = dict(cropmix=0.5, reprob=0.5, auto_augment='trivial')
    transforms = {'timm': create_train_transform(size), 'published': create_train_transform(size, **published)}
    seconds: Dict[str, List[float]] = {name: [] for name in transforms}
    case, steps = replace(MODEL, img_size=img_size), []
    step = create_step(case, create_model(case))
    for epoch in range(repeat + 1):
        steps.append(seconds_of(step, case.device))
        for name, transform in transforms.items():
            loader = create_train_loader(dataset, config, transform, BATCH_SIZE, torch.device('cpu'), workers)
            start_epoch(loader, seed=0, epoch=epoch, rank=0)
            start = time.perf_counter()
            images = sum(len(target) for _, target in loader)
            seconds[name].append((time.perf_counter() - start) / images)
    model_rate = case.batch_size / statistics.median(steps[1:])
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return [
        dict(
            pipeline=name,
            img_size=img_size,
            workers=workers,
            images_per_s=1 / median,
            model_images_per_s=model_rate,
            time_vs_timm=median / medians['timm'],
        )
        for name, median in medians.items()
    ]
