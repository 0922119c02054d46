"""Evaluation of a checkpoint on a labelled split."""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from timm.data import resolve_input_data_config
from timm.models import load_checkpoint
from timm.task import MultiLabelClassificationEvaluator
from timm.utils import ParseKwargs, load_checkpoint_metadata

from .data import create_dataset, label_frequency
from .evaluate import autocast_context, create_eval_loader, evaluate
from .train import DEFAULT_SPLITS, add_shared_args, create_model


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='validate.py',
        description='Evaluate a model on a labelled split. What is not given is as it was in training.',
    )
    add_shared_args(parser)
    parser.add_argument('--split', metavar='NAME', help='split to evaluate on')
    parser.add_argument('--checkpoint', metavar='FILE', help='checkpoint of train_multilabel.py')
    parser.add_argument('--model', metavar='NAME', help='any timm model')
    parser.add_argument('--pretrained', action='store_true', help='evaluate pretrained weights')
    parser.add_argument('--model-kwargs', nargs='*', action=ParseKwargs, metavar='KEY=VALUE')
    parser.add_argument('-b', '--batch-size', type=int, metavar='N')
    parser.add_argument('--results-file', metavar='FILE', help='write the result there as json')
    args = parser.parse_args(argv)
    if not args.checkpoint and not (args.model and args.pretrained):
        raise ValueError('Nothing to evaluate: give --checkpoint FILE, or --model NAME --pretrained.')

    trained: Dict[str, Any] = {}
    if args.checkpoint:
        if not Path(args.checkpoint).is_file():
            raise FileNotFoundError(f'Checkpoint {args.checkpoint!r} does not exist.')
        trained = vars(load_checkpoint_metadata(args.checkpoint).get('args') or argparse.Namespace())
    defaults = dict(dataset='demo', amp=False, amp_dtype='bfloat16', batch_size=32, model_kwargs={}, class_names=None)
    same_data = args.dataset in (None, trained.get('dataset'))
    for name in ('dataset', 'data_dir', 'img_size', 'amp', 'amp_dtype', 'model', 'model_kwargs', 'class_names'):
        if getattr(args, name, None) is None:
            setattr(args, name, trained.get(name, defaults.get(name)))
    trained_split = trained.get('val_split') if same_data else None
    args.split = args.split or trained_split or DEFAULT_SPLITS.get(args.dataset, (None, None))[1]
    args.batch_size = args.batch_size or trained.get('validation_batch_size', defaults['batch_size'])
    if not args.model:
        raise ValueError(f'Checkpoint {args.checkpoint!r} does not say which model it is of, give --model NAME.')
    if args.dataset != 'demo' and not args.data_dir:
        raise ValueError(f'--dataset {args.dataset} needs --data-dir.')
    return args


def main(argv: Optional[List[str]] = None) -> Dict[str, Any]:
    """Evaluate as the flags say, returns the result that is printed."""
    args = parse_args(argv)
    device = torch.device(args.device)
    dataset = create_dataset(args.dataset, args.data_dir, args.split)
    class_names = dataset.reader.class_names
    if args.class_names is not None and args.class_names != class_names:
        raise ValueError(
            f'Checkpoint {args.checkpoint!r} knows {len(args.class_names)} classes ({", ".join(args.class_names[:3])}, '
            f'...), split {args.split!r} has {len(class_names)} ({", ".join(class_names[:3])}, ...).'
        )
    model = create_model(args, len(class_names))
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint, use_ema=False)
    model.to(device)
    data_config = resolve_input_data_config(model, args=vars(args))
    loader = create_eval_loader(dataset, data_config, args.batch_size, device, args.workers)
    autocast = autocast_context(device, args.amp, args.amp_dtype)
    metrics = evaluate(model, loader, MultiLabelClassificationEvaluator(device), autocast)
    result = dict(
        model=args.model,
        dataset=args.dataset,
        split=args.split,
        images=len(dataset),
        img_size=data_config['input_size'][-1],
        chance=100 * label_frequency(dataset).mean().item(),
        **metrics,
    )
    if args.results_file:
        Path(args.results_file).write_text(json.dumps(result, indent=4) + '\n')
    print(f'--result\n{json.dumps(result, indent=4)}')
    return result
