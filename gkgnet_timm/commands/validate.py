"""Evaluation of checkpoints and pretrained models on a labelled split."""

import argparse
import csv
import glob
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import torch

import timm
from timm import utils

from ..data.dataset import DATASETS, TIMM_DATASETS
from ..data.splits import DEFAULT_IMAGES, DEFAULT_SPLITS
from ..evaluation.class_report import class_report, write_class_report
from ..evaluation.evaluate import evaluate_model, evaluate_scores
from ..evaluation.plots import draw_plots
from ..evaluation.scores_file import save_scores
from ..evaluation.thresholds import calibrate, save_thresholds
from ..metrics import chance_level
from ..runtime import blame
from ..weights.file import read_checkpoint_args
from .flags.checks import check_device, check_outputs, check_ranges, check_weights
from .flags.groups import KeyValues, add_data_args, add_run_args

TRAINED_MODEL = ('model', 'model_kwargs', 'img_size', 'amp', 'amp_dtype', 'channels_last', 'class_names')

TRAINED_DATA = ('dataset', 'data_dir', 'class_map', 'num_classes', 'drop_unlabelled', 'input_key', 'target_key')

TRAINED_DATA += ('target_format',)

OF_ONE_MODEL = ('metrics_by_class', 'calibrate', 'scores_out', 'plots')  # of several each would replace the last one's

CHECKPOINTS = ('*.pth.tar', '*.pth', '*.pt', '*.safetensors')


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='validate.py',
        description='Evaluate models on a labelled split. What is not given is as in the training of the checkpoint.',
    )
    add_data_args(parser)
    parser.add_argument('--split', metavar='NAME', help='split to evaluate on')
    parser.add_argument('--images', metavar='DIR', help='folder of the images, where the split does not say')
    parser.add_argument('--num-samples', type=int, metavar='N', help='length of a stream')
    add_run_args(parser)
    group = parser.add_argument_group('model')
    group.add_argument('--checkpoint', metavar='FILE', help='checkpoint of train_multilabel.py, or a folder of them')
    group.add_argument('--use-ema', action='store_true', help='report the average of the weights first')
    group.add_argument('--model', metavar='NAME', help='timm model; with wildcards or a text file of names: several')
    group.add_argument('--pretrained', action='store_true', help='evaluate pretrained weights')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE')
    group.add_argument('-b', '--batch-size', type=int, default=32, metavar='N')
    group = parser.add_argument_group('preprocessing', 'Each as the model says unless given.')
    group.add_argument('--img-size', type=int, metavar='N', help='image side in pixels')
    group.add_argument('--crop-pct', type=float, metavar='PCT', help='part of the resized image that is kept')
    group.add_argument('--crop-mode', choices=('squash', 'border', 'center'))
    group.add_argument('--interpolation', choices=('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming'))
    group.add_argument('--mean', type=float, nargs='+', metavar='MEAN')
    group.add_argument('--std', type=float, nargs='+', metavar='STD')
    group.add_argument('--flip', action='store_true', help='mean logits of each image and its mirror image')
    group = parser.add_argument_group('result')
    group.add_argument(
        '--threshold', default='0.5', metavar='T', help='of predicted labels: a score or a file of --calibrate (0.5)'
    )
    group.add_argument('--calibrate', metavar='FILE', help='write the thresholds of highest F1 on this split there')
    group.add_argument('--results-file', metavar='FILE', help='write the result there')
    group.add_argument('--results-format', choices=('json', 'csv'), help='(default: by the name of the file)')
    group.add_argument('--metrics-by-class', metavar='FILE', help='write a csv of the classes there')
    group.add_argument('--scores-out', metavar='FILE', help='write scores, targets, files and classes there (npz)')
    group.add_argument('--scores-in', metavar='FILE', help='evaluate such a file, without a model')
    group.add_argument('--plots', metavar='DIR', help='draw curves, AP by class and confusion there')
    parser.set_defaults(class_names=None)
    return parser


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Flags of the command line over those of the checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If there is nothing to evaluate, or flags are missing.
    """
    parser = _create_parser()
    given = parser.parse_args(argv)
    folder = os.path.isdir(given.checkpoint or '')
    trained = read_checkpoint_args(given.checkpoint) if given.checkpoint and not folder else {}
    parser.set_defaults(trained=trained)
    if trained:
        parser.set_defaults(batch_size=trained['validation_batch_size'])
        parser.set_defaults(**{name: trained[name] for name in TRAINED_MODEL})
        if given.dataset in (None, trained['dataset']):
            parser.set_defaults(**{name: trained[name] for name in TRAINED_DATA})
            parser.set_defaults(split=trained['val_split'], images=trained['val_images'])
    args = parser.parse_args(argv)
    args.amp, args.amp_dtype = bool(args.amp), args.amp_dtype or 'bfloat16'
    check_ranges(args)
    check_outputs(args, ('results_file', 'metrics_by_class', 'calibrate', 'scores_out'), ('plots',))
    if args.dataset and args.dataset not in DATASETS and not args.dataset.startswith(TIMM_DATASETS):
        raise ValueError(f'Unknown --dataset {args.dataset!r}, expected {", ".join(DATASETS + TIMM_DATASETS)}.')
    if args.scores_in and args.use_ema:
        raise ValueError(f'--use-ema: {args.scores_in!r} holds scores, no average of the weights.')
    if args.scores_in or folder:  # each of the folder says the rest
        return args
    check_weights(args)
    if args.checkpoint and not args.dataset:
        raise ValueError(f'Checkpoint {args.checkpoint!r} does not say what it was trained on, give --dataset NAME.')
    args.dataset = args.dataset or 'demo'
    if args.dataset != 'demo' and not args.data_dir and not args.dataset.startswith('hf'):
        raise ValueError(f'--dataset {args.dataset} needs --data-dir.')
    if not args.split:
        args.split = DEFAULT_SPLITS.get(args.dataset, (None, None))[1]
        args.images = args.images or DEFAULT_IMAGES.get(args.dataset, (None, None))[1]
    if not args.split:
        raise ValueError(f'--dataset {args.dataset} needs --split.')
    return args


def list_jobs(args: argparse.Namespace) -> List[Dict[str, str]]:
    """What to evaluate one after the other: models by wildcard or list, or the checkpoints of a folder.

    Raises:
        ValueError: If there is none.
    """
    if args.checkpoint:
        if not Path(args.checkpoint).is_dir():
            return [{}]
        files = {
            path for pattern in CHECKPOINTS for path in glob.glob(os.path.join(glob.escape(args.checkpoint), pattern))
        }
        jobs = [dict(checkpoint=path) for path in sorted(files, key=utils.natural_key)]
    elif args.model.endswith('.txt'):
        if not Path(args.model).is_file():
            raise FileNotFoundError(f'List of models {args.model!r} does not exist.')
        jobs = [dict(model=name) for name in Path(args.model).read_text().split()]
    elif any(c in args.model for c in '*?['):
        jobs = [dict(model=name) for name in timm.list_pretrained(args.model)]
    else:
        return [{}]
    if not jobs:
        raise ValueError(f'{args.checkpoint or args.model!r} has no checkpoint or pretrained model to evaluate.')
    return jobs


def validate(args: argparse.Namespace) -> Dict[str, Any]:
    """Evaluate one model, or a file of scores, and write what the flags ask for; returns the result."""
    metrics, scores, targets, files, class_names, threshold, result = (
        evaluate_scores(args) if args.scores_in else evaluate_model(args)
    )
    headline = 'ema' if args.use_ema else 'raw'
    result.update(images=len(targets), chance=chance_level(targets), **metrics[headline])
    if len(metrics) > 1:
        result.update({f'mAP_{kind}': metrics[kind]['mAP'] for kind in metrics})
    if not utils.is_primary(args):
        return result
    for kind, figures in metrics.items():
        weights = f'{kind} weights: ' if len(metrics) > 1 else ''
        present = f' ({figures["mAP_present"]:.4f} over classes with positives)'
        present = present if figures['mAP_present'] != figures['mAP'] else ''
        print(f'{weights}mAP {figures["mAP"]:.4f}{present}, CF1 {figures["CF1"]:.4f}, OF1 {figures["OF1"]:.4f}')
    if args.metrics_by_class:
        rows = class_report(scores[headline], targets, class_names, threshold)
        write_class_report(args.metrics_by_class, rows)
    if args.calibrate:
        save_thresholds(args.calibrate, class_names, *calibrate(scores[headline], targets))
    if args.scores_out:
        save_scores(args.scores_out, scores[headline], targets, files, class_names)
    if args.plots:
        draw_plots(args.plots, scores[headline], targets, class_names, threshold)
    return result


def write_results(path: str, output: Union[Dict[str, Any], List[Dict[str, Any]]], form: Optional[str]) -> None:
    """Write a result or a list of them as json, or as csv with a row for each."""
    if (form or Path(path).suffix.lstrip('.')) == 'csv':
        results = output if isinstance(output, list) else [output]
        with open(path, 'w', newline='') as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for result in results for key in result)))
            writer.writeheader()
            writer.writerows(results)
    else:
        Path(path).write_text(json.dumps(output, indent=4) + '\n')


def main(argv: Optional[List[str]] = None) -> Union[Dict[str, Any], List[Dict[str, Any]]]:
    """Evaluate as the flags say, returns what is printed: the result, or those of several models, best first."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    jobs = [{}] if args.scores_in else list_jobs(args)
    files = ', '.join(f'--{name.replace("_", "-")}' for name in OF_ONE_MODEL if getattr(args, name))
    if files and len(jobs) > 1:
        raise ValueError(f'{files}: for one model only, these are {len(jobs)}. Give one --checkpoint or --model.')
    with blame(f'--device {args.device!r}'):
        device = utils.init_distributed_device(args)
    check_device(device)
    results, failed = [], []
    for job in jobs:
        try:
            job_args = parse_args([*argv, *(part for name, value in job.items() for part in (f'--{name}', value))])
            for name in ('device', 'distributed', 'rank', 'local_rank', 'world_size'):
                setattr(job_args, name, getattr(args, name))
            results.append(validate(job_args))
        except Exception as error:  # whatever one raises, the figures of the others are not lost
            if len(jobs) == 1:
                raise
            failed.append(next(iter(job.values())))
            print(f'{failed[-1]}: {type(error).__name__}: {" ".join(str(error).split())}', flush=True)
    if not results:
        raise ValueError(f'None of {len(jobs)} models could be evaluated.')
    results.sort(key=lambda result: result['mAP'], reverse=True)
    output = results if len(jobs) > 1 else results[0]
    if utils.is_primary(args):
        if args.results_file:
            write_results(args.results_file, output, args.results_format)
        print(f'--result\n{json.dumps(output, indent=4)}')
    if args.distributed:
        torch.distributed.destroy_process_group()
    if failed:
        raise ValueError(f'{len(failed)} of {len(jobs)} models could not be evaluated: {", ".join(failed)}.')
    return output
