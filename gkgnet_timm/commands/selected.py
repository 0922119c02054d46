"""What the flags of a command select: a data set, a model, and the values of a checkpoint for flags not given."""

import argparse
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch.nn as nn
from torch.utils.data import Dataset

from ..class_names import UNVERIFIED, read_class_map
from ..data import open_split
from ..data.dataset import DATASETS, form_of
from ..data.readers.table import TABLE_OPTIONS
from ..inference.predictor import class_names_of
from ..inference.program import is_program, load_program
from ..runtime import check_ranges, moved
from ..training.config import check_types
from ..weights.file import TrainedWith, read_training
from ..weights.load import check_arguments, load_model, stored_names
from ..weights.source import find_weights
from ..weights.thresholds import load_threshold
from .flags.checks import RANGES

__all__ = ['choose_dataset', 'load_labelled', 'load_named', 'load_selected', 'model_defaults', 'move_paths']
__all__ += ['open_selected', 'parse_over_checkpoint', 'run_options', 'select_threshold', 'select_weights']

READING_OPTIONS = ('bit_depth', 'background', 'max_pixels')
DATA_OPTIONS = ('class_map', 'drop_unlabelled', 'num_classes', 'input_key', 'target_key', 'target_format')
DATA_OPTIONS += TABLE_OPTIONS
PATHS = ('data_dir', 'class_map', 'label_names', 'train_split', 'val_split', 'train_images', 'val_images')


def choose_dataset(name: Optional[str], data_dir: Optional[str], splits: Sequence[Optional[str]]) -> Optional[str]:
    """Return the name of a data set: as given, else by the suffixes of splits, None if nothing is given.

    Raises:
        ValueError: If there is a folder or a split, but nothing says of what form.
    """
    if name == 'demo' and data_dir:
        raise ValueError(f'--data-dir {data_dir!r} is not used by --dataset demo: say what is in it, see --dataset.')
    given = [split for split in splits if split]
    if name or not (data_dir or given):
        return name
    forms = sorted(set(filter(None, map(form_of, given))))
    if len(forms) != 1:
        of_form = f'the splits are files for --dataset {" and ".join(forms)}'
        shown = ', '.join([*(['--data-dir ' + repr(data_dir)] if data_dir else []), *(f'split {x!r}' for x in given)])
        raise ValueError(
            f'{shown}: {of_form if forms else "of what form?"} Give --dataset {", ".join(DATASETS[1:])} or one of '
            'timm, or splits that end in .csv, .tsv, .json or .data.'
        )
    return forms[0]


def move_paths(trained: TrainedWith, data_dir: Optional[str]) -> TrainedWith:
    """Return what a checkpoint was trained with, its paths inside the data folder from another folder on."""
    config = trained.config
    old, names = config.get('data_dir'), [name for name in PATHS if isinstance(config.get(name), str)]
    return trained._replace(config=dict(config, **{name: moved(config[name], old, data_dir) for name in names}))


def open_selected(args: argparse.Namespace, **options: Any) -> Dataset[Any]:
    """Open the data set of the flags, see `open_split`."""
    options.update({name: getattr(args, name) for name in (*DATA_OPTIONS, *READING_OPTIONS)})
    options.update(unknown=args.unknown_labels, where=args.where)
    return open_split(args.dataset, args.data_dir, **options)


def select_weights(checkpoint: str) -> str:
    """Return the file of weights that a flag means, and say so if it is not the one it names."""
    found = find_weights(checkpoint)
    if found != checkpoint:
        print(f'Weights of {checkpoint!r}: {found}', file=sys.stderr)
    return found


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


def parse_over_checkpoint(
    parser: argparse.ArgumentParser, argv: Optional[List[str]], **defaults: Any
) -> Tuple[argparse.Namespace, Optional[TrainedWith]]:
    """Parse the command line over the flags of the checkpoint, and return what that was trained with.

    Args:
        parser: Parser with the flags of `add_model_flags`.
        argv: Command line.
        defaults: Values of flags that are not taken from a checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If flags are out of range.
    """
    args = parser.parse_args(argv)
    checkpoint = select_weights(args.checkpoint) if args.checkpoint else None
    trained = read_training(checkpoint) if checkpoint else None
    if trained:
        of_checkpoint = argparse.Namespace(**dict(model_defaults(checkpoint, trained), **defaults))
        args = parser.parse_args(argv, of_checkpoint)
    args.checkpoint = checkpoint
    check_ranges(args, RANGES)
    return args, trained


def run_options(args: argparse.Namespace) -> Dict[str, Any]:
    """Return how a model runs over images, as `predict_images` and `evaluate_dataset` take it."""
    names = ('batch_size', 'workers', 'amp_dtype', 'channels_last')
    return dict({name: getattr(args, name) for name in names}, amp=bool(args.amp))


def _load_program(args: argparse.Namespace, num_classes: Optional[int]) -> nn.Module:
    """Load the exported model of the flags."""
    for name in ('model', 'pretrained', 'model_kwargs', 'use_ema', 'amp', 'channels_last'):
        if getattr(args, name):
            raise ValueError(
                f'--{name.replace("_", "-")}: {args.checkpoint!r} is an exported model, of fixed weights and precision.'
            )
    model = load_program(args.checkpoint, args.img_size)
    if num_classes not in (None, model.num_classes):
        raise ValueError(f'Exported model {args.checkpoint!r} has {model.num_classes} classes, not {num_classes}.')
    return model


def load_named(args: argparse.Namespace, trained: Optional[TrainedWith]) -> Tuple[nn.Module, Optional[List[str]]]:
    """Load the model of the flags, and return the class names of the checkpoint or of --class-map, if there are any."""
    names = trained.class_names if trained else None
    if is_program(args.checkpoint):
        names = stored_names(args.checkpoint, None)
    if args.class_map:
        mapped = read_class_map(args.class_map)
        if names not in (None, mapped):
            raise ValueError(
                f'--class-map {args.class_map!r} has names different from those in checkpoint {args.checkpoint!r}: '
                'leave it out.'
            )
        names = mapped
    return load_selected(args, len(names) if names else None, args.use_ema), names


def load_selected(args: argparse.Namespace, num_classes: Optional[int], use_ema: Optional[bool]) -> nn.Module:
    """Load the model of the flags, see `load_model` and `load_program`."""
    if is_program(args.checkpoint):
        return _load_program(args, num_classes)
    check_arguments(args.model, args.model_kwargs)
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


def load_labelled(args: argparse.Namespace, trained: Optional[TrainedWith]) -> Tuple[nn.Module, List[str]]:
    """Load the model of the flags to label images: its classes have names in any case. Says so if they are unsure."""
    model, names = load_named(args, trained)
    if not names and UNVERIFIED in (model.pretrained_cfg.get('notes') or ()):
        print('No data has confirmed the order of the class names yet: class-order does.', file=sys.stderr)
    return model, names or class_names_of(model)


def select_threshold(
    args: argparse.Namespace, model: nn.Module, names: List[str]
) -> Union[float, np.ndarray, List[float]]:
    """Return the lowest score of a label, or one for each (L,): that of --threshold, else of the weights, else 0.5."""
    if args.threshold is not None:
        return load_threshold(args.threshold, names)
    if getattr(model, 'thresholds', None):
        print('Thresholds: those of each label that came with the weights; --threshold 0.5 overrules.', file=sys.stderr)
        return model.thresholds
    return 0.5
