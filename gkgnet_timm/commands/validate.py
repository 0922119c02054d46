"""Evaluate checkpoints and pretrained models on a labelled split."""

import argparse
import json
import os
import sys
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
import torch.nn as nn

import timm

from ..data import Decoder
from ..data.check import describe
from ..data.dataset import DATASETS, TIMM_DATASETS
from ..data.images import describe_unreadable
from ..data.readers.table_cells import Meaning
from ..data.splits import select_files
from ..evaluation.class_report import class_report, write_class_report
from ..evaluation.evaluate import SAME_SPLIT, Evaluation, evaluate_dataset, evaluate_scores
from ..evaluation.plots import draw_plots
from ..evaluation.results import Result, class_table, in_decimals, write_results
from ..evaluation.scores_file import save_scores
from ..evaluation.thresholds import calibrate, save_thresholds
from ..inference.device import Process, start_process
from ..metrics import chance_level, multilabel_metrics
from ..runtime import blame, check_ranges, locate, one_line
from ..training.config import locate_split
from ..weights.file import TrainedWith, read_training
from ..weights.folder import CONFIG
from ..weights.load import stored_names
from ..weights.preprocessing import resolve_preprocessing
from ..weights.thresholds import load_threshold
from .flags.checks import RANGES, check_outputs
from .flags.validate import create_parser
from .jobs import list_jobs
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

PREPROCESSING = ('input_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')
OF_ONE_MODEL = ('metrics_by_class', 'calibrate', 'scores_out', 'plots')  # each model would overwrite them


def parse_args(argv: List[str]) -> Tuple[argparse.Namespace, Optional[TrainedWith]]:
    """Parse the command line over the flags of the checkpoint, and return what that was trained with.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If there is nothing to evaluate, or flags contradict each other.
    """
    parser = create_parser()
    args = parser.parse_args(argv)
    folder = os.path.isdir(args.checkpoint or '') and not os.path.isfile(os.path.join(args.checkpoint, CONFIG))
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
    check_outputs(args, ('results_file', 'metrics_by_class', 'calibrate', 'scores_out'), ('plots',))
    if args.dataset and args.dataset not in DATASETS and not args.dataset.startswith(TIMM_DATASETS):
        raise ValueError(f'Unknown --dataset {args.dataset!r}, expected {", ".join(DATASETS + TIMM_DATASETS)}.')
    if args.scores_in and args.use_ema:
        raise ValueError(f'--use-ema: {args.scores_in!r} has scores, not averaged weights.')
    if not args.scores_in and not folder:  # each checkpoint of a folder is checked when its turn comes
        if not args.checkpoint and not (args.model and args.pretrained):
            raise ValueError('No weights: give --checkpoint FILE, or --model NAME --pretrained.')
        if args.use_ema and not (trained and trained.has_ema):
            raise ValueError(
                f'--use-ema: {args.checkpoint or args.model!r} has no averaged weights; training writes them with '
                '--model-ema.'
            )
        args.dataset = args.dataset or choose_dataset(None, args.data_dir, (args.split,))
        if args.checkpoint and not args.dataset:
            raise ValueError(
                f'Checkpoint {args.checkpoint!r} does not say what it was trained on, give --dataset NAME.'
            )
        args.dataset = args.dataset or 'demo'
    return args, trained


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


def _evaluate_model(
    args: argparse.Namespace, trained: Optional[TrainedWith], process: Process
) -> Tuple[Dict[str, Evaluation], Result]:
    """Evaluate the model of the flags, with raw and averaged weights if the checkpoint has both.

    Returns:
        Evaluations by kind of weights ('raw', 'ema'), and what they are of.
    """
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
            f'{args.checkpoint or args.model!r} knows {len(class_names)} classes ({", ".join(class_names[:3])}, ...), '
            f'split {dataset.split!r} has {len(dataset.class_names)} ({", ".join(dataset.class_names[:3])}, ...).'
        )
    threshold = load_threshold(args.threshold, dataset.class_names)
    evaluations: Dict[str, Evaluation] = {}
    for kind in ('raw', 'ema') if trained and trained.has_ema else ('raw',):
        model = load_selected(args, len(dataset.class_names), use_ema=kind == 'ema')
        with blame('--mean, --std'):
            config = resolve_preprocessing(model, args=vars(args))
        if process.is_primary and kind == 'raw':
            _print_preprocessing(args, trained, model, config, dataset.decoder)
        try:
            evaluations[kind] = evaluate_dataset(
                model,
                dataset,
                device=process.device,
                flip=args.flip,
                threshold=threshold,
                data_config=config,
                **run_options(args),
            )
        except ValueError as error:
            raise ValueError(f'{args.checkpoint or args.model!r} cannot be evaluated: {error}') from error
    if process.is_primary:
        for path in evaluations['raw'].unreadable:
            print(f'Left out, as it cannot be read: {path}')
        if unreadable := len(evaluations['raw'].unreadable):
            print(f'{describe_unreadable(unreadable, len(dataset))}.')
    name = args.model or model.pretrained_cfg.get('architecture')
    origin = dict(model=name, checkpoint=args.checkpoint, dataset=args.dataset, split=dataset.split)
    origin.update(img_size=config['input_size'][-1], crop_mode=config['crop_mode'])
    if trained and _is_trained_on(args, trained, dataset):
        origin['warning'] = SAME_SPLIT
    return evaluations, origin


def _write_files(args: argparse.Namespace, evaluation: Evaluation) -> None:
    """Print the table of classes, write what the flags ask for, and say so."""
    metrics, scores, ranking, targets, files, class_names, threshold, _ = evaluation
    rows = class_report(scores, targets, class_names, threshold, ranking)
    print(f'\n{class_table(rows)}\n')
    if args.metrics_by_class:
        write_class_report(args.metrics_by_class, rows)
    if args.calibrate:
        thresholds, of_all = calibrate(scores, targets)
        save_thresholds(args.calibrate, class_names, thresholds, of_all)
        after = multilabel_metrics(scores.astype(np.float32), targets, thresholds)  # as a model's scores are compared
        changes = [f'{name} {metrics[name]:.4f} before, {after[name]:.4f} after' for name in ('CF1', 'OF1')]
        print(f'Thresholds of the classes, on these images: {"; ".join(changes)}.')
    if args.scores_out:
        is_logits = ranking is not scores
        save_scores(args.scores_out, scores, targets, files, class_names, ranking if is_logits else None)
    if args.plots:
        draw_plots(args.plots, scores, targets, class_names, threshold, ranking)
    if written := [path for name in OF_ONE_MODEL if (path := getattr(args, name))]:
        print(f'Wrote {", ".join(written)}.')


def validate(
    args: argparse.Namespace, trained: Optional[TrainedWith], process: Process, is_only: bool = True
) -> Result:
    """Evaluate a model, or a file of scores, print the metrics and return the result. Of the only one, also print the
    table of classes and write what the flags ask for."""
    if args.scores_in:
        evaluations = dict(raw=evaluate_scores(args.scores_in, args.threshold))
        result: Result = dict(scores=args.scores_in)
    else:
        evaluations, result = _evaluate_model(args, trained, process)
    headline = evaluations['ema' if trained and trained.takes_average(args.use_ema) else 'raw']
    result.update(images=len(headline.targets), chance=chance_level(headline.targets), **headline.metrics)
    several = len(evaluations) > 1
    if several:
        result.update({f'mAP_{kind}': evaluation.metrics['mAP'] for kind, evaluation in evaluations.items()})
    if process.is_primary:
        for kind, evaluation in evaluations.items():
            metrics = evaluation.metrics
            weights = f'{kind} weights: ' if several else ''
            present = f' ({metrics["mAP_present"]:.4f} over classes with positives)'
            present = present if metrics['mAP_present'] != metrics['mAP'] else ''
            print(f'{weights}mAP {metrics["mAP"]:.4f}{present}, CF1 {metrics["CF1"]:.4f}, OF1 {metrics["OF1"]:.4f}')
        if several:
            print(trained.describe_weights(args.use_ema))
        if 'warning' in result:
            print(f'Warning: {result["warning"]}')
        if is_only:
            _write_files(args, headline)
    return result


def main(argv: Optional[List[str]] = None) -> Union[Result, List[Result]]:
    """Evaluate what the flags select, print the result with four decimals and return it: that of a model, or those of
    several models, best first."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args, trained = parse_args(argv)
    jobs = list_jobs(args)
    files = ', '.join(f'--{name.replace("_", "-")}' for name in OF_ONE_MODEL if getattr(args, name))
    if files and len(jobs) > 1:
        raise ValueError(f'{files}: for one model only, these are {len(jobs)}. Give one --checkpoint or --model.')
    process = start_process(args.device)
    results, failed = [], []
    for number, (flags, also) in enumerate(jobs, 1):
        if len(jobs) > 1 and process.is_primary:
            names = f' = {", ".join(also)}' if also else ''
            print(f'[{number}/{len(jobs)}] {flags[1]}{names}', flush=True)
        try:
            parsed = parse_args([*argv, *flags]) if flags else (args, trained)
            result = validate(*parsed, process, is_only=len(jobs) == 1)
            results.append(dict(result, also=', '.join(also)) if also else result)
        except Exception as error:  # whatever it is, the results of the other models are not lost
            if len(jobs) == 1:
                raise
            failed.append(flags[1])
            print(f'{flags[1]}: {type(error).__name__}: {one_line(error)}', flush=True)
    if not results:
        raise ValueError(f'None of {len(jobs)} models could be evaluated.')
    results.sort(key=lambda result: result['mAP'], reverse=True)
    output = results if len(jobs) > 1 else results[0]
    if process.is_primary:
        shown = [in_decimals(result) for result in results]
        shown = shown if len(jobs) > 1 else shown[0]
        if args.results_file:
            write_results(args.results_file, shown, args.results_format)
            print(f'Wrote {args.results_file}.')
        print(f'--result\n{json.dumps(shown, indent=4)}')
    if process.is_distributed:
        torch.distributed.destroy_process_group()
    if failed:
        raise ValueError(f'{len(failed)} of {len(jobs)} models could not be evaluated: {", ".join(failed)}.')
    return output
