"""Evaluation of a checkpoint on a labelled split."""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from timm.data import resolve_input_data_config
from timm.models import load_checkpoint
from timm.utils import ParseKwargs

from .data import create_dataset, create_eval_loader
from .data.check import check_files
from .evaluate import autocast_context, evaluate
from .factory import create_model
from .metrics import MultiLabelEvaluator
from .training.arguments import (
    DEFAULT_IMAGES,
    DEFAULT_SPLITS,
    add_data_args,
    add_run_args,
    data_kwargs,
    read_checkpoint_args,
)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='validate.py',
        description='Evaluate a model on a labelled split. What is not given is as it was in training.',
    )
    add_data_args(parser)
    add_run_args(parser)
    parser.add_argument('--split', metavar='NAME', help='split to evaluate on')
    parser.add_argument('--images', metavar='DIR', help='folder of the images, where the split does not say')
    parser.add_argument('--checkpoint', metavar='FILE', help='checkpoint of train_multilabel.py')
    parser.add_argument('--use-ema', action='store_true', help='the average of the weights in the checkpoint')
    parser.add_argument('--model', metavar='NAME', help='any timm model')
    parser.add_argument('--pretrained', action='store_true', help='evaluate pretrained weights')
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=ParseKwargs, metavar='KEY=VALUE')
    parser.add_argument('--img-size', type=int, metavar='N', help='image side in pixels')
    parser.add_argument('-b', '--batch-size', type=int, default=32, metavar='N')
    parser.add_argument('--results-file', metavar='FILE', help='write the result there as json')
    parser.set_defaults(class_names=None, amp_dtype='bfloat16')
    checkpoint = parser.parse_args(argv).checkpoint
    trained = read_checkpoint_args(checkpoint) if checkpoint else {}
    if trained:
        parser.set_defaults(split=trained['val_split'], images=trained['val_images'])
        parser.set_defaults(batch_size=trained['validation_batch_size'])
        names = ('dataset', 'data_dir', 'class_map', 'num_classes', 'drop_unlabelled', 'input_key', 'target_key')
        names += (
            'target_format',
            'model',
            'model_kwargs',
            'img_size',
            'amp',
            'amp_dtype',
            'channels_last',
            'class_names',
        )
        parser.set_defaults(**{name: trained[name] for name in names})
        given = parser.parse_args(argv)
        if given.dataset != trained['dataset']:
            parser.set_defaults(split=None, images=None, class_map=None)
    args = parser.parse_args(argv)
    if not args.checkpoint and not (args.model and args.pretrained):
        raise ValueError('Nothing to evaluate: give --checkpoint FILE, or --model NAME --pretrained.')
    if not args.model:
        raise ValueError(f'Checkpoint {args.checkpoint!r} does not say which model it is of, give --model NAME.')
    args.dataset = args.dataset or 'demo'
    if args.dataset != 'demo' and not args.data_dir and not args.dataset.startswith('hf'):
        raise ValueError(f'--dataset {args.dataset} needs --data-dir.')
    if not args.split:
        args.split = DEFAULT_SPLITS.get(args.dataset, (None, None))[1]
        args.images = args.images or DEFAULT_IMAGES.get(args.dataset, (None, None))[1]
    args.distributed = False
    return args


def main(argv: Optional[List[str]] = None) -> Dict[str, Any]:
    """Evaluate as the flags say, returns the result that is printed."""
    args = parse_args(argv)
    device = torch.device(args.device)
    bad_images = os.devnull if args.on_bad_image == 'skip' else None
    # a table need not have labels of all classes
    class_names = args.class_names if args.dataset in ('csv', 'gkgnet') else None
    dataset = create_dataset(
        split=args.split, images=args.images, bad_images=bad_images, class_names=class_names, **data_kwargs(args)
    )
    if args.class_names is not None and args.class_names != dataset.class_names:
        raise ValueError(
            f'Checkpoint {args.checkpoint!r} knows {len(args.class_names)} classes ({", ".join(args.class_names[:3])}, '
            f'...), split {args.split!r} has {len(dataset.class_names)} ({", ".join(dataset.class_names[:3])}, ...).'
        )
    if not bad_images:
        check_files(dataset)
    model = create_model(args, len(dataset.class_names))
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint, use_ema=args.use_ema)
    model.to(device)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    data_config = resolve_input_data_config(model, args=vars(args))
    loader = create_eval_loader(dataset, data_config, args.batch_size, device, args.workers)
    autocast = autocast_context(device, bool(args.amp), args.amp_dtype)
    evaluator = MultiLabelEvaluator(device)
    metrics = evaluate(model, loader, evaluator, autocast, args)
    logits, _, positions = evaluator.gathered
    for position in sorted(set(range(len(dataset))) - set(positions)) if bad_images else ():
        print(f'Left out, as it can not be read: {dataset.filename(position, absolute=True)}')
    result = dict(
        model=args.model,
        dataset=args.dataset,
        split=args.split,
        images=len(logits),
        img_size=data_config['input_size'][-1],
        chance=evaluator.chance,
        **metrics,
    )
    if args.results_file:
        Path(args.results_file).write_text(json.dumps(result, indent=4) + '\n')
    print(f'--result\n{json.dumps(result, indent=4)}')
    return result
