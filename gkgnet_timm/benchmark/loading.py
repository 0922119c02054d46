"""Measure how many images per second the training pipelines load."""

import statistics
import time
from typing import Any, Dict, List

import torch
from torch.utils.data import Dataset

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data import create_train_loader, create_train_transform, start_epoch

__all__ = ['BATCH_SIZE', 'benchmark_loading']

BATCH_SIZE = 16


def benchmark_loading(dataset: Dataset, img_size: int, workers: int = 2, repeat: int = 5) -> List[Dict[str, Any]]:
    """Load a data set with the published training pipeline and with timm's default one, in turn.

    Returns:
        A row of figures for each: medians of `repeat` epochs, after one that warms up.
    """
    size = (img_size, img_size)
    config = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, input_size=(3, *size))
    published = dict(cropmix=0.5, reprob=0.5, auto_augment='trivial')
    transforms = {'timm': create_train_transform(size), 'published': create_train_transform(size, **published)}
    seconds: Dict[str, List[float]] = {name: [] for name in transforms}
    for epoch in range(repeat + 1):
        for name, transform in transforms.items():
            loader = create_train_loader(dataset, config, transform, BATCH_SIZE, torch.device('cpu'), workers)
            start_epoch(loader, seed=0, epoch=epoch, rank=0)
            start = time.perf_counter()
            images = sum(len(target) for _, target in loader)
            seconds[name].append((time.perf_counter() - start) / images)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return [
        dict(
            pipeline=name,
            img_size=img_size,
            workers=workers,
            images_per_s=1 / median,
            time_vs_timm=median / medians['timm'],
        )
        for name, median in medians.items()
    ]
