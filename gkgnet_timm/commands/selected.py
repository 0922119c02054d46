"""What the flags of a command select: a data set, a model, and the values of a checkpoint for flags not given."""

import argparse
from typing import Any, Dict, Optional

import torch.nn as nn
from torch.utils.data import Dataset

from ..data import open_split
from ..data.readers.table import TABLE_OPTIONS
from ..training.config import check_types
from ..weights.file import TrainedWith
from ..weights.load import check_arguments, load_model

__all__ = ['load_selected', 'model_defaults', 'open_selected', 'run_options']

READING_OPTIONS = ('bit_depth', 'background', 'max_pixels')
DATA_OPTIONS = ('class_map', 'drop_unlabelled', 'num_classes', 'input_key', 'target_key', 'target_format')
DATA_OPTIONS += TABLE_OPTIONS


def open_selected(args: argparse.Namespace, **options: Any) -> Dataset:
    """Open the data set of the flags, see `open_split`."""
    options.update({name: getattr(args, name) for name in (*DATA_OPTIONS, *READING_OPTIONS)})
    options.update(unknown=args.unknown_labels, where=args.where)
    return open_split(args.dataset, args.data_dir, **options)


def model_defaults(checkpoint: str, trained: TrainedWith) -> Dict[str, Any]:
    """Return the values of a checkpoint for flags that are not given.

    Raises:
        ValueError: If a value is not of the type of its flag.
    """
    try:
        check_types(trained.config)
    except ValueError as error:
        raise ValueError(f'{checkpoint!r} is damaged: {error}') from error
    names = ('model', 'model_kwargs', 'img_size', 'amp', 'amp_dtype', 'channels_last')
    return {name: trained.config[name] for name in names if name in trained.config}


def run_options(args: argparse.Namespace) -> Dict[str, Any]:
    """Return how a model runs over images, as `predict_images` and `evaluate_dataset` take it."""
    names = ('batch_size', 'workers', 'amp_dtype', 'channels_last')
    return dict({name: getattr(args, name) for name in names}, amp=bool(args.amp))


def load_selected(args: argparse.Namespace, num_classes: Optional[int], use_ema: Optional[bool]) -> nn.Module:
    """Load the model of the flags, see `load_model`."""
    check_arguments(args.model_kwargs)
    kwargs = dict(args.model_kwargs)
    size_of_model = kwargs.pop('img_size', None)
    return load_model(
        args.checkpoint,
        name=args.model,
        pretrained=args.pretrained,
        num_classes=num_classes,
        img_size=args.img_size or size_of_model,
        use_ema=use_ema,
        **kwargs,
    )
