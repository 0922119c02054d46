"""The model and the split of a command that evaluates."""

import argparse
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch.nn as nn

import timm

from ..data import Decoder
from ..data.check import describe
from ..data.dataset import DATASETS, check_dataset_name
from ..data.images import describe_unreadable
from ..data.readers.table_cells import Meaning
from ..data.splits import pick_images, select_files
from ..evaluation.evaluate import SAME_SPLIT, Evaluation, evaluate_dataset
from ..evaluation.results import Result
from ..inference.device import Process
from ..metrics.ranks import together
from ..runtime import blame, check_ranges, locate
from ..training.config import locate_split
from ..weights.file import TrainedWith, read_training
from ..weights.folder import CONFIG
from ..weights.load import stored_names
from ..weights.preprocessing import resolve_preprocessing
from ..weights.thresholds import load_threshold
from .flags.checks import RANGES
from .selected import (
    DATA_OPTIONS,
    choose_dataset,
    load_selected,
    model_defaults,
    move_paths,
    open_selected,
    run_options,
    select_weights,
)

__all__ = ['check_weights', 'evaluate_model', 'is_folder_of_checkpoints', 'load_evaluated', 'parse_evaluation']

PREPROCESSING = ('input_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')


def is_folder_of_checkpoints(path: Optional[str]) -> bool:
    """Say whether a path is a folder, other than one of converted weights."""
    return os.path.isdir(path or '') and not os.path.isfile(os.path.join(path, CONFIG))


def parse_evaluation(
    argv: List[str], parser: argparse.ArgumentParser, takes_several: bool = False
) -> Tuple[argparse.Namespace, Optional[TrainedWith]]:
    """Parse the command line over the flags of the checkpoint, and return what that was trained with.

    Args:
        argv: Command line.
        parser: Parser with the flags of `add_evaluation_flags`.
        takes_several: Leave a folder of checkpoints as it is (default: take the one that `find_weights` takes).

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If flags contradict each other or the checkpoint.
    """
    args = parser.parse_args(argv)
    folder = takes_several and is_folder_of_checkpoints(args.checkpoint)
    checkpoint = select_weights(args.checkpoint) if args.checkpoint and not folder else args.checkpoint
    trained = read_training(checkpoint) if checkpoint and not folder else None
    if trained:
        defaults = model_defaults(args.checkpoint, trained)  # checks their types
        trained = move_paths(trained, args.data_dir)
        config = trained.config
        flags = {name: name for name in ('dataset', 'data_dir', 'max_pixels', *DATA_OPTIONS)}
        flags.update(split='val_split', images='val_images')
        flags = flags if args.dataset in (None, config.get('dataset')) else {}
        split = locate_split(config.get('dataset'), args.split, args.data_dir or config.get('data_dir'))
        if flags and split in (None, config.get('val_split')):
            flags['where'] = 'val_where'
        if flags and not args.split and (trained.held_out or config.get('no_val')):
            if not trained.held_out and not args.where:
                raise ValueError(f'Checkpoint {args.checkpoint!r} was trained without evaluation, give --split NAME.')
            flags.update(split='train_split', images='train_images', where='train_where')
            if not args.where:  # which selects rows of the whole table
                defaults['held_out'] = trained.held_out
        flags['batch_size'] = 'validation_batch_size'
        defaults.update({flag: config[name] for flag, name in flags.items() if name in config})
        args = parser.parse_args(argv, argparse.Namespace(**defaults))
    args.checkpoint = checkpoint
    check_ranges(args, RANGES)
    if args.dataset:
        check_dataset_name(args.dataset)
    return args, trained


def check_weights(args: argparse.Namespace, trained: Optional[TrainedWith]) -> None:
    """Check that the flags name weights, and set the data set if they do not name that.

    Raises:
        ValueError: If there is nothing to evaluate.
    """
    if not args.checkpoint and not (args.model and args.pretrained):
        raise ValueError('No weights: give --checkpoint FILE, or --model NAME --pretrained.')
    if args.use_ema and not (trained and trained.has_ema):
        raise ValueError(
            f'--use-ema: {args.checkpoint or args.model!r} has no averaged weights; training writes them with '
            '--model-ema.'
        )
    args.dataset = args.dataset or choose_dataset(None, args.data_dir, (args.split,))
    if args.checkpoint and not args.dataset:
        raise ValueError(f'Checkpoint {args.checkpoint!r} does not say what it was trained on, give --dataset NAME.')
    args.dataset = args.dataset or 'demo'


def _print_preprocessing(
    args: argparse.Namespace,
    trained: Optional[TrainedWith],
    model: nn.Module,
    config: Dict[str, Any],
    decoder: Decoder,
) -> None:
    """Print the preprocessing in force, and warn where it differs from that of training, if known."""
    expected = resolve_preprocessing(model)
    size = trained.config['img_size'] if trained else None
    if not size and args.model and (cfg := timm.models.get_pretrained_cfg(args.model)):
        size = cfg.input_size[-1]
    if size:
        expected['input_size'] = (expected['input_size'][0], size, size)
    decoder = decoder.for_model(model.pretrained_cfg)
    print('preprocessing: ' + ', '.join([*(f'{name} {config[name]}' for name in PREPROCESSING), decoder.describe()]))
    for name in PREPROCESSING:
        if config[name] != expected[name]:
            print(f'Warning: {name} is {config[name]}, the model was trained for {expected[name]}.')
    for difference in decoder.differences():
        print(f'Warning: {difference}.')


def _is_trained_on(args: argparse.Namespace, trained: TrainedWith, dataset: Any) -> bool:
    """Say whether a checkpoint was trained on the images of a data set."""
    config = trained.config
    folder = args.data_dir and os.path.abspath(args.data_dir)
    if getattr(args, 'held_out', None) or (args.dataset, folder) != (config.get('dataset'), config.get('data_dir')):
        return False
    parts = ('train', 'val') if trained.is_training_split else ('train',)
    images = dataset.images and (locate(dataset.images, folder) or dataset.images)
    opened = [locate_split(args.dataset, dataset.split, folder), images]
    for part in parts:
        *paths, where = (config.get(f'{part}_{name}') for name in ('split', 'images', 'where'))
        if paths == opened and where in (None, args.where):
            return True
    return False


def _meaning(args: argparse.Namespace, trained: Optional[TrainedWith]) -> Optional[Meaning]:
    """Return how the table of the training was understood, if it was on one."""
    record = trained.table if trained and args.dataset == 'csv' else None
    return None if record is None else Meaning.from_record(record)


def load_evaluated(args: argparse.Namespace, trained: Optional[TrainedWith], num_classes: int) -> nn.Module:
    """Load the model of an evaluation once more, with the preprocessing of the flags as its own."""
    model = load_selected(args, num_classes, use_ema=bool(trained and trained.takes_average(args.use_ema)))
    model.pretrained_cfg = dict(model.pretrained_cfg, **resolve_preprocessing(model, args=vars(args)))
    return model


def evaluate_model(
    args: argparse.Namespace,
    trained: Optional[TrainedWith],
    process: Process,
    kinds: Sequence[str],
    threshold: str = '0.5',
    max_images: Optional[int] = None,
) -> Tuple[Dict[str, Evaluation], Result]:
    """Evaluate the model of the flags.

    Args:
        args: Flags of `parse_evaluation`.
        trained: What the checkpoint was trained with.
        process: This process.
        kinds: Weights to evaluate, 'raw' and 'ema'.
        threshold: As in `load_threshold`.
        max_images: Evaluate this many images, see `pick_images`.

    Returns:
        Evaluations by kind of weights, and what they are of.
    """
    with together():
        class_names = trained.class_names if trained else None
        if not trained and not args.class_map:
            class_names = stored_names(args.checkpoint, args.model) or None
        held_out = getattr(args, 'held_out', None)
        dataset = open_selected(
            args,
            split=args.split,
            images=args.images,
            class_names=class_names if args.dataset in DATASETS else None,
            drop_empty_classes=bool(trained and trained.config.get('drop_empty_classes')) and args.dataset in DATASETS,
            meaning=_meaning(args, trained),
            bad_images=os.devnull if args.on_bad_image == 'skip' else None,
            batch_size=args.batch_size,
            num_samples=args.num_samples,
            verbose=process.is_primary and not held_out,
        )
        if held_out:
            dataset = select_files(dataset, held_out)
            if process.is_primary:
                print(describe(dataset, f'{dataset.split}, as held out by the training'))
        if class_names not in (None, dataset.class_names):
            raise ValueError(
                f'{args.checkpoint or args.model!r} knows {len(class_names)} classes ({", ".join(class_names[:3])}, '
                f'...), split {dataset.split!r} has {len(dataset.class_names)} '
                f'({", ".join(dataset.class_names[:3])}, ...).'
            )
        if max_images is not None and max_images < len(dataset):
            dataset = pick_images(dataset, max_images)
            if process.is_primary:
                print(describe(dataset, f'{dataset.split}, picked so that every class has images'))
        thresholds = load_threshold(threshold, dataset.class_names)
    evaluations: Dict[str, Evaluation] = {}
    for kind in kinds:
        with together():
            model = load_selected(args, len(dataset.class_names), use_ema=kind == 'ema')
            with blame('--mean, --std'):
                config = resolve_preprocessing(model, args=vars(args))
        if process.is_primary and kind == kinds[0]:
            _print_preprocessing(args, trained, model, config, dataset.decoder)
        try:
            evaluations[kind] = evaluate_dataset(
                model,
                dataset,
                device=process.device,
                flip=args.flip,
                threshold=thresholds,
                data_config=config,
                **run_options(args),
            )
        except ValueError as error:
            raise ValueError(f'{args.checkpoint or args.model!r} cannot be evaluated: {error}') from error
    if process.is_primary:
        for path in evaluations[kinds[0]].unreadable:
            print(f'Left out, as it cannot be read: {path}')
        if unreadable := len(evaluations[kinds[0]].unreadable):
            print(f'{describe_unreadable(unreadable, len(dataset))}.')
    name = args.model or model.pretrained_cfg.get('architecture')
    origin = dict(model=name, checkpoint=args.checkpoint, dataset=args.dataset, split=dataset.split)
    origin.update(img_size=config['input_size'][-1], crop_mode=config['crop_mode'])
    if trained and _is_trained_on(args, trained, dataset):
        origin['warning'] = SAME_SPLIT
    return evaluations, origin
