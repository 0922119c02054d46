"""Images a second of the training pipelines."""

import argparse
import statistics
import time
from typing import Any, Dict, List

import torch

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data import create_dataset, create_train_loader, create_train_transform, start_epoch
from ..data.splits import DEFAULT_SPLITS, data_kwargs

__all__ = ['BATCH_SIZE', 'benchmark_loading']

BATCH_SIZE = 16


def benchmark_loading(args: argparse.Namespace, img_size: int) -> List[Dict[str, Any]]:
    """The published training pipeline and timm's default one, over the same files in turn."""
    size = (img_size, img_size)
    dataset = create_dataset(split=args.split or DEFAULT_SPLITS[args.dataset][0], **data_kwargs(args))
    config = dict(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, input_size=(3, *size))
    published = dict(cropmix=0.5, reprob=0.5, auto_augment='trivial')
    transforms = {'timm': create_train_transform(size), 'published': create_train_transform(size, **published)}
    seconds: Dict[str, List[float]] = {name: [] for name in transforms}
    for round_ in range(args.repeat + 1):  # the first warms up
        for name, transform in transforms.items():
            loader = create_train_loader(dataset, config, transform, BATCH_SIZE, torch.device('cpu'), args.workers)
            start_epoch(loader, seed=0, epoch=round_, rank=0)
            start = time.perf_counter()
            images = sum(len(target) for _, target in loader)
            seconds[name].append((time.perf_counter() - start) / images)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return [
        dict(
            pipeline=name,
            img_size=img_size,
            workers=args.workers,
            images_per_s=1 / median,
            time_vs_timm=median / medians['timm'],
        )
        for name, median in medians.items()
    ]
