"""Evaluation of checkpoints and pretrained models on a labelled split."""

import argparse
import copy
import csv
import glob
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np
import torch

import timm
from timm import utils
from timm.data import resolve_input_data_config
from timm.models import load_checkpoint
from timm.task import evaluation_sample_limit

from .data import MultiLabelDataset, create_dataset, create_eval_loader
from .data.check import check_files, describe
from .evaluate import autocast_context, evaluate
from .factory import create_model
from .metrics import MultiLabelEvaluator, chance_level, multilabel_metrics
from .report import class_report, draw_plots, load_scores, save_scores, write_class_report
from .thresholds import calibrate, load_threshold, save_thresholds
from .training.arguments import (
    DEFAULT_IMAGES,
    DEFAULT_SPLITS,
    KeyValues,
    add_data_args,
    add_run_args,
    data_kwargs,
    read_checkpoint_args,
)

TRAINED = ('dataset', 'data_dir', 'class_map', 'num_classes', 'drop_unlabelled', 'input_key', 'target_key')
TRAINED += ('target_format', 'model', 'model_kwargs', 'img_size', 'amp', 'amp_dtype', 'channels_last')
CHECKPOINTS = ('*.pth.tar', '*.pth', '*.pt', '*.safetensors')
PREPROCESSING = ('input_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')


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
    group.add_argument('--interpolation', metavar='NAME', help='bilinear, bicubic, ...')
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
    parser.set_defaults(class_names=None, trained_size=None)
    return parser


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Flags of the command line over those of the checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If there is nothing to evaluate, or flags are missing.
    """
    parser = _create_parser()
    given = parser.parse_args(argv)
    trained = {}
    if given.checkpoint and not Path(given.checkpoint).is_dir():
        trained = read_checkpoint_args(given.checkpoint)
    if trained:
        parser.set_defaults(**{name: trained[name] for name in (*TRAINED, 'class_names')})
        parser.set_defaults(batch_size=trained['validation_batch_size'], trained_size=trained['img_size'])
        if given.dataset in (None, trained['dataset']):
            parser.set_defaults(split=trained['val_split'], images=trained['val_images'])
        else:
            parser.set_defaults(class_map=None)
        if given.model not in (None, trained['model']):
            raise ValueError(f'Checkpoint {given.checkpoint!r} is of {trained["model"]}, not of {given.model}.')
    args = parser.parse_args(argv)
    args.amp, args.amp_dtype = bool(args.amp), args.amp_dtype or 'bfloat16'
    for flag in ('results_file', 'metrics_by_class', 'calibrate', 'scores_out'):  # now, not after all images
        path = getattr(args, flag)
        if path and not Path(path).absolute().parent.is_dir():
            raise FileNotFoundError(f'--{flag.replace("_", "-")} {path!r}: there is no such folder.')
    if args.scores_in:
        return args
    if not args.checkpoint and not (args.model and args.pretrained):
        raise ValueError('Nothing to evaluate: give --checkpoint FILE, --model NAME --pretrained, or --scores-in FILE.')
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


def _describe_preprocessing(config: Dict[str, Any], expected: Dict[str, Any]) -> str:
    """The preprocessing in force, and where it is another one than the model was trained for."""
    lines = ['preprocessing: ' + ', '.join(f'{name} {config[name]}' for name in PREPROCESSING)]
    for name in PREPROCESSING:
        if config[name] != expected[name]:
            lines.append(f'Warning: {name} is {config[name]}, the model was trained for {expected[name]}.')
    return '\n'.join(lines)


def _weights_in(args: argparse.Namespace) -> List[str]:
    """'raw', and 'ema' where a checkpoint holds the average of the weights as well."""
    averaged = False
    if args.checkpoint and args.class_names is not None:
        averaged = 'state_dict_ema' in utils.load_checkpoint_metadata(args.checkpoint)
    if args.use_ema and not averaged:
        raise ValueError(f'--use-ema: {args.checkpoint or args.model!r} holds no average of the weights.')
    return ['raw', 'ema'] if averaged else ['raw']


def _load_model(args: argparse.Namespace, kind: str, num_classes: int) -> torch.nn.Module:
    """The model with its weights, at the image size of the flags."""
    trained = args.checkpoint is not None and args.class_names is not None
    creation = copy.copy(args)
    if trained:
        creation.img_size = args.trained_size
    elif args.checkpoint:  # of other origin, such as the published ones
        creation.pretrained_path = args.checkpoint
    model = create_model(creation, num_classes)
    if trained:
        try:
            load_checkpoint(model, args.checkpoint, use_ema=kind == 'ema')
        except RuntimeError as error:
            reason = ' '.join(str(error).split())[:200]
            raise ValueError(f'Checkpoint {args.checkpoint!r} is not of this {args.model}: {reason}') from error
    if args.img_size and args.img_size != creation.img_size and hasattr(model, 'set_input_size'):
        model.set_input_size(args.img_size)
    return model


def run_model(args: argparse.Namespace) -> Dict[str, Any]:
    """Logits and targets of a model on a split, of raw weights and of their average where there are both."""
    device, primary = torch.device(args.device), utils.is_primary(args)
    bad_images = os.devnull if args.on_bad_image == 'skip' else None
    kwargs = data_kwargs(args)
    if '/' in args.dataset:
        kwargs.update(batch_size=args.batch_size, num_samples=args.num_samples)
    if args.dataset in ('csv', 'gkgnet'):  # need not have labels of all classes
        kwargs.update(class_names=args.class_names)
    dataset = create_dataset(split=args.split, images=args.images, bad_images=bad_images, **kwargs)
    if primary:
        print(describe(dataset, args.split))
    if args.class_names is not None and args.class_names != dataset.class_names:
        raise ValueError(
            f'Checkpoint {args.checkpoint!r} knows {len(args.class_names)} classes ({", ".join(args.class_names[:3])}, '
            f'...), split {args.split!r} has {len(dataset.class_names)} ({", ".join(dataset.class_names[:3])}, ...).'
        )
    if not bad_images:
        check_files(dataset)
    threshold = load_threshold(args.threshold, dataset.class_names)
    kinds = _weights_in(args)
    model = _load_model(args, kinds[0], len(dataset.class_names))
    config = resolve_input_data_config(model, args=vars(args))
    if primary:
        print(_describe_preprocessing(config, resolve_input_data_config(model, args=dict(img_size=args.trained_size))))
    loader = create_eval_loader(dataset, config, args.batch_size, device, args.workers, args.distributed)
    autocast = autocast_context(device, args.amp, args.amp_dtype)

    metrics, scores = {}, {}
    for kind in kinds:
        model = _load_model(args, kind, len(dataset.class_names))
        model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
        evaluator = MultiLabelEvaluator(device, max_samples=evaluation_sample_limit(loader), threshold=threshold)
        metrics[kind] = evaluate(model, loader, evaluator, autocast, args, args.flip)
        logits, targets, positions = evaluator.gathered
        scores[kind] = 1 / (1 + np.exp(-logits.astype(np.float64)))  # exact enough to rank as the logits do
    files = [str(position) for position in positions]
    if isinstance(dataset, MultiLabelDataset):
        for position in sorted(set(range(len(dataset))) - set(positions.tolist())) if primary else ():
            print(f'Left out, as it can not be read: {dataset.filename(position, absolute=True)}')
        files = [str(dataset.filename(position)) for position in positions]
        areas = getattr(dataset.reader, 'areas', None)
        for kind in scores if areas is not None else ():
            figures = multilabel_metrics(scores[kind], targets, threshold, areas=areas[positions])
            metrics[kind].update({name: figures[name] for name in ('AP_small', 'AP_medium', 'AP_large')})
    return dict(
        metrics=metrics,
        scores=scores,
        targets=targets,
        files=files,
        class_names=dataset.class_names,
        threshold=threshold,
        img_size=config['input_size'][-1],
        crop_mode=config['crop_mode'],
    )


def run_scores(args: argparse.Namespace) -> Dict[str, Any]:
    """The same of a file of scores."""
    scores, targets, files, class_names = load_scores(args.scores_in)
    threshold = load_threshold(args.threshold, class_names)
    metrics = multilabel_metrics(scores, targets, threshold)
    del metrics['per_class_ap']
    return dict(
        metrics=dict(raw=metrics),
        scores=dict(raw=scores),
        targets=targets,
        files=files,
        class_names=class_names,
        threshold=threshold,
    )


def validate(args: argparse.Namespace) -> Dict[str, Any]:
    """Evaluate one model, or a file of scores, and write what the flags ask for; returns the result."""
    run = run_scores(args) if args.scores_in else run_model(args)
    metrics, targets, class_names = run['metrics'], run['targets'], run['class_names']
    headline = 'ema' if args.use_ema else 'raw'
    scores = run['scores'][headline]
    if args.scores_in:
        result: Dict[str, Any] = dict(scores=args.scores_in)
    else:
        names = ('model', 'checkpoint', 'dataset', 'split')
        result = {name: getattr(args, name) for name in names} | {name: run[name] for name in ('img_size', 'crop_mode')}
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
        write_class_report(args.metrics_by_class, class_report(scores, targets, class_names, run['threshold']))
    if args.calibrate:
        save_thresholds(args.calibrate, class_names, *calibrate(scores, targets))
    if args.scores_out:
        save_scores(args.scores_out, scores, targets, run['files'], class_names)
    if args.plots:
        draw_plots(args.plots, scores, targets, class_names, run['threshold'])
    return result


def write_results(path: str, results: List[Dict[str, Any]], results_format: Optional[str]) -> None:
    """Write results as json, one or a list, or as csv with a row for each."""
    if (results_format or Path(path).suffix.lstrip('.')) == 'csv':
        with open(path, 'w', newline='') as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for result in results for key in result)))
            writer.writeheader()
            writer.writerows(results)
    else:
        Path(path).write_text(json.dumps(results if len(results) > 1 else results[0], indent=4) + '\n')


def main(argv: Optional[List[str]] = None) -> Union[Dict[str, Any], List[Dict[str, Any]]]:
    """Evaluate as the flags say, returns what is printed: the result, or those of several models, best first."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    utils.init_distributed_device(args)
    jobs = [{}] if args.scores_in else list_jobs(args)
    results, failed = [], []
    for job in jobs:
        try:
            job_args = parse_args([*argv, *(part for name, value in job.items() for part in (f'--{name}', value))])
            for name in ('device', 'distributed', 'rank', 'local_rank', 'world_size'):
                setattr(job_args, name, getattr(args, name))
            results.append(validate(job_args))
        except (OSError, ValueError) as error:
            if len(jobs) == 1:
                raise
            failed.append(next(iter(job.values())))
            print(f'{failed[-1]}: {error}', flush=True)
    if not results:
        raise ValueError(f'None of {len(jobs)} models could be evaluated.')
    results.sort(key=lambda result: result['mAP'], reverse=True)
    if utils.is_primary(args):
        if args.results_file:
            write_results(args.results_file, results, args.results_format)
        print(f'--result\n{json.dumps(results if len(jobs) > 1 else results[0], indent=4)}')
    if args.distributed:
        torch.distributed.destroy_process_group()
    if failed:
        raise ValueError(f'{len(failed)} of {len(jobs)} models could not be evaluated: {", ".join(failed)}.')
    return results if len(jobs) > 1 else results[0]
