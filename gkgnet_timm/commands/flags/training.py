"""Flags of training, with the names of timm's, and the files they may come from."""

import argparse
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from timm.models import safe_model_name

from ...data.splits import DEFAULT_IMAGES, DEFAULT_SPLITS
from ...loss import LOSSES
from ...weights.file import read_checkpoint_args
from .checks import check_ranges
from .config import _configs, _read_config
from .groups import KeyValues, add_data_args, add_run_args

__all__ = ['flag_values', 'parse_args']

SCHEDULES = ('cosine', 'step', 'multistep', 'constant', 'poly', 'tanh', 'wsd', 'rsqrt')


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='train_multilabel.py',
        description='Train a multi-label model. Flags have the names of timm. Without --dataset and --config: the '
        'config demo, a small model on a data set that is drawn on first use.',
    )

    def flag(group: argparse._ArgumentGroup, *names: str, help: str = '', **kwargs: Any) -> None:
        if kwargs.get('default') not in (None, False) and 'default' not in help:
            help += ' (default: %(default)s)'
        group.add_argument(*names, help=help.strip(), **kwargs)

    def switch(group: argparse._ArgumentGroup, *names: str, help: str = '') -> None:
        group.add_argument(*names, action='store_true', help=help)

    parser.add_argument(
        '-c',
        '--config',
        metavar='FILE',
        help='YAML with flags, or the name of a packaged one: ' + ', '.join(_configs()),
    )
    add_data_args(parser)
    group = parser.add_argument_group('splits')
    flag(group, '--train-split', metavar='NAME', help='name, or path of an annotation file')
    flag(group, '--val-split', metavar='NAME', help='the same of evaluation')
    flag(group, '--train-images', metavar='DIR', help='folder of the images, where the split does not say')
    flag(group, '--val-images', metavar='DIR', help='the same of evaluation')
    flag(group, '--train-num-samples', type=int, metavar='N', help='length of a stream')
    flag(group, '--val-num-samples', type=int, metavar='N', help='the same of evaluation')
    flag(
        group,
        '--unknown-labels',
        choices=('ignore', 'positive', 'negative'),
        help='labels -1 in training: unknown, or difficult ones of voc (default: positive for voc, else ignore)',
    )

    group = parser.add_argument_group('model')
    flag(group, '--model', default='gkgnet_224', metavar='NAME', help='any timm model')
    switch(group, '--pretrained', help='start from the pretrained weights of its tag')
    flag(group, '--pretrained-path', metavar='FILE', help='start from this file: Pyramid ViG, GKGNet, or a checkpoint')
    switch(
        group,
        '--init-labels-by-name',
        help='classes that the pretrained weights know by name keep their label nodes and score rows',
    )
    flag(
        group,
        '--pos-embed-init',
        choices=('resample', 'zero'),
        default='resample',
        help='position embedding where the pretrained weights are of another image size',
    )
    flag(group, '--img-size', type=int, metavar='N', help='image side in pixels (default: that of the model)')
    flag(group, '--drop', type=float, metavar='RATE', help='dropout before the classifier')
    flag(group, '--drop-path', type=float, metavar='RATE', help='stochastic depth')
    flag(group, '--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE', help='default none')
    switch(group, '--grad-checkpointing', help='less memory, more time')
    flag(group, '--torchcompile', nargs='?', const='inductor', metavar='BACKEND', help='compile the model')
    switch(group, '--sync-bn', help='batch statistics over all processes')
    flag(group, '--dist-bn', choices=('reduce', 'broadcast', ''), default='reduce', help='running statistics per epoch')
    add_run_args(parser)

    group = parser.add_argument_group('optimisation')
    flag(group, '-b', '--batch-size', type=int, default=16, metavar='N', help='images of a step and process')
    flag(group, '-vb', '--validation-batch-size', type=int, metavar='N', help='(default: batch size)')
    flag(group, '--grad-accum-steps', type=int, default=1, metavar='N', help='batches of an update')
    flag(group, '--opt', default='adamw', metavar='NAME', help='any timm optimizer')
    flag(group, '--opt-eps', type=float, metavar='EPS')
    flag(group, '--opt-betas', type=float, nargs=2, metavar='BETA')
    flag(group, '--opt-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE', help='default none')
    flag(group, '--lr', type=float, default=1e-4, help='learning rate, whatever the batch size')
    flag(group, '--weight-decay', type=float, default=0.05, help='not for norms and biases')
    flag(group, '--momentum', type=float, default=0.9, help='for optimizers that have one')
    flag(group, '--layer-decay', type=float, metavar='RATE', help='layer-wise decay of the learning rate')
    flag(group, '--clip-grad', type=float, default=5.0, metavar='NORM', help='largest gradient, 0 for any')
    flag(group, '--clip-mode', choices=('norm', 'value', 'agc'), default='norm')
    flag(group, '--max-bad-steps', type=int, default=10, metavar='N', help='updates of an epoch with a loss not finite')

    group = parser.add_argument_group('schedule')
    flag(group, '--epochs', type=int, default=30, metavar='N')
    flag(group, '--sched', choices=SCHEDULES, default='cosine')
    group.add_argument(
        '--sched-on-updates',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='step per update (default: true)',
    )
    flag(group, '--warmup-epochs', type=int, default=1, metavar='N')
    flag(group, '--warmup-lr', type=float, default=1e-7, help='at the first update')
    flag(group, '--min-lr', type=float, default=0.0)
    flag(group, '--decay-milestones', type=int, nargs='+', default=[10, 50], metavar='N', help='multistep: epochs that '
         'start at a lower rate')  # fmt: skip
    flag(group, '--decay-epochs', type=float, metavar='N', help='step: epochs of a rate; wsd, rsqrt: of the decay')
    flag(group, '--decay-rate', type=float, default=0.1, help='step, multistep: factor; poly: power')
    flag(group, '--cooldown-epochs', type=int, default=0, metavar='N', help='at the lowest rate')

    group = parser.add_argument_group('loss')
    flag(group, '--loss', choices=LOSSES, help='(default: gkgnet for the models gkgnet*, else bce)')
    flag(group, '--smoothing', type=float, default=0.0, metavar='S', help='labels become S / 2 and 1 - S / 2')
    flag(group, '--loss-class-weight', metavar='W', help='bce, asl: number, list, file, inv_freq or effective_num')
    flag(group, '--loss-pos-weight', metavar='W', help='bce, asl: number, list, file or neg_pos')
    flag(group, '--loss-weight-power', type=float, default=1.0, help='of neg_pos and inv_freq')
    flag(group, '--loss-weight-beta', type=float, default=0.999, help='of effective_num')
    flag(group, '--loss-weight-max', type=float, help='largest weight')
    flag(group, '--class-stats', metavar='FILE', help='json with pos_counts and num_samples, of a stream')
    switch(group, '--bce-sum', help='sum over classes')
    flag(group, '--asl-gamma-pos', type=float, default=1.0)
    flag(group, '--asl-gamma-neg', type=float, default=4.0)
    flag(group, '--asl-clip', type=float, default=0.05)
    flag(group, '--asl-reduction', choices=('batchmean', 'sum', 'mean'), default='batchmean')
    flag(group, '--poly-epsilon', type=float, default=2.0)
    flag(group, '--poly-gamma', type=float, default=0.0)
    flag(group, '--poly-alpha', type=float)
    flag(group, '--twoway-tp', type=float, default=4.0)
    flag(group, '--twoway-tn', type=float, default=1.0)
    flag(group, '--db-neg-scale', type=float, default=2.0)
    flag(group, '--db-init-bias', type=float, default=0.05)
    flag(group, '--db-focal-gamma', type=float, default=2.0)

    group = parser.add_argument_group('augmentation')
    switch(group, '--no-aug', help='none at all')
    flag(group, '--cropmix', type=float, default=0.0, metavar='P', help='probability, in place of random crops')
    flag(group, '--train-crop-mode', choices=('rrc', 'rkrc', 'rkrr'), help='(default: rrc)')
    flag(group, '--scale', type=float, nargs=2, default=[0.08, 1.0], metavar='PCT', help='area of random crops')
    flag(group, '--ratio', type=float, nargs=2, default=[3 / 4, 4 / 3], metavar='RATIO', help='aspect of random crops')
    flag(group, '--train-interpolation', default='random', metavar='NAME', help='random, bilinear, bicubic')
    flag(group, '--hflip', type=float, default=0.5, metavar='P')
    flag(group, '--vflip', type=float, default=0.0, metavar='P')
    flag(group, '--color-jitter', type=float, default=0.4, metavar='PCT')
    flag(group, '--aa', metavar='NAME', help='trivial, or a policy of timm such as rand-m9-mstd0.5, without jitter')
    flag(group, '--reprob', type=float, default=0.0, metavar='P', help='random erasing, with noise')
    flag(group, '--mixup', type=float, default=0.0, metavar='ALPHA')
    flag(group, '--cutmix', type=float, default=0.0, metavar='ALPHA')
    flag(group, '--mixup-prob', type=float, default=1.0, metavar='P', help='of either')
    flag(group, '--mixup-switch-prob', type=float, default=0.5, metavar='P', help='of cutmix where both are on')
    flag(group, '--mixup-mode', choices=('batch', 'pair', 'elem'), default='batch')
    flag(group, '--mixup-off-epoch', type=int, default=0, metavar='N', help='from which on images are not mixed')
    flag(group, '--oversample-thr', type=float, metavar='F', help='repeat images of classes that fewer images have')
    flag(group, '--aug-repeats', type=float, default=0, metavar='N', help='augmentations of an image in an epoch')

    group = parser.add_argument_group('average of the weights')
    switch(group, '--model-ema', help='evaluate and keep a moving average as well')
    flag(group, '--model-ema-decay', type=float, default=0.9998, metavar='RATE')
    switch(group, '--model-ema-warmup', help='lower decay at first')
    switch(group, '--model-ema-force-cpu', help='saves memory, without evaluation')

    group = parser.add_argument_group('output')
    flag(group, '--output', default='output/train', metavar='DIR', help='folder of all runs')
    flag(group, '--experiment', metavar='NAME', help='folder of this run (default: time, model, size)')
    flag(
        group,
        '--resume',
        metavar='FILE',
        help='continue from this checkpoint, or with auto from last.pth.tar of the experiment if there is one; its '
        'flags hold unless given anew',
    )
    flag(group, '--eval-metric', default='mAP', metavar='NAME', help='that picks the best checkpoint')
    flag(group, '--log-interval', type=int, default=50, metavar='N', help='updates between lines')
    flag(group, '--checkpoint-hist', type=int, default=3, metavar='N', help='epoch checkpoints that are kept')
    flag(group, '--seed', type=int, default=42)
    switch(group, '--log-wandb', help='log to Weights & Biases')
    flag(group, '--wandb-project', metavar='NAME')
    return parser


def flag_values(args: argparse.Namespace) -> Dict[str, Any]:
    """The flags of a run as a config that repeats it."""
    return {
        action.dest: getattr(args, action.dest)
        for action in _create_parser()._actions
        if action.dest not in ('help', 'config', 'resume')
    }


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Flags of the command line, over those of the config, over those of the checkpoint to resume.

    Raises:
        FileNotFoundError: If a config or checkpoint does not exist.
        ValueError: If a config is malformed or flags contradict each other.
    """
    parser = _create_parser()
    actions = {action.dest: action for action in parser._actions if action.dest not in ('help', 'config', 'resume')}
    given = parser.parse_args(argv)
    resume = given.resume
    config = given.config or ('demo' if given.dataset in (None, 'demo') and resume in (None, 'auto') else None)
    values = _read_config(config, actions) if config else {}
    parser.set_defaults(**values)
    if resume == 'auto':
        given = parser.parse_args(argv)
        if not given.experiment:
            raise ValueError('--resume auto needs --experiment, whose last checkpoint it continues from.')
        last = Path(given.output, given.experiment, 'last.pth.tar')
        resume = str(last) if last.is_file() else None
    if resume:
        trained = read_checkpoint_args(resume)
        if not trained:
            raise ValueError(
                f'{resume!r} is not a checkpoint of train_multilabel.py. To start from its weights give '
                '--pretrained-path.'
            )
        parser.set_defaults(**{key: value for key, value in trained.items() if key in actions and key != 'device'})
        if given.config:
            parser.set_defaults(**values)
        if given.dataset not in (None, trained['dataset']):
            parser.set_defaults(**{f'{part}_{what}': None for part in ('train', 'val') for what in ('split', 'images')})
        folder = Path(resume).parent
        parser.set_defaults(output=str(folder.parent), experiment=folder.name)
    args = parser.parse_args(argv)
    args.resume = resume
    if resume and Path(args.output, args.experiment) != folder:
        raise ValueError(
            f'--resume goes on in the folder of its checkpoint {resume!r}: leave out --output, --experiment.'
        )

    if args.dataset is None:
        raise ValueError(f'Neither --dataset nor config {config!r} says which data set to train on.')
    if args.dataset != 'demo' and not args.data_dir and not args.dataset.startswith('hf'):
        raise ValueError(f'--dataset {args.dataset} needs --data-dir.')
    splits, images = DEFAULT_SPLITS.get(args.dataset, (None, None)), DEFAULT_IMAGES.get(args.dataset, (None, None))
    for i, part in enumerate(('train', 'val')):
        if not getattr(args, f'{part}_split'):
            setattr(args, f'{part}_split', splits[i])
            if not getattr(args, f'{part}_images'):
                setattr(args, f'{part}_images', images[i])
        if not getattr(args, f'{part}_split'):
            raise ValueError(f'--dataset {args.dataset} needs --{part}-split.')
    if args.init_labels_by_name and not (args.pretrained or args.pretrained_path or resume):
        raise ValueError('--init-labels-by-name needs pretrained weights: give --pretrained or --pretrained-path FILE.')
    args.unknown_labels = args.unknown_labels or ('positive' if args.dataset == 'voc' else 'ignore')
    args.loss = args.loss or ('gkgnet' if safe_model_name(args.model).startswith('gkgnet') else 'bce')
    if args.validation_batch_size is None:
        args.validation_batch_size = args.batch_size
    args.amp, args.amp_dtype = bool(args.amp), args.amp_dtype or 'bfloat16'
    check_ranges(args)
    if not 0 < args.scale[0] <= args.scale[1] or not 0 < args.ratio[0] <= args.ratio[1]:
        raise ValueError(f'--scale and --ratio are from small to large, got {args.scale} and {args.ratio}.')
    if args.torchcompile and args.torchcompile not in torch.compiler.list_backends(exclude_tags=()):
        backends = ', '.join(torch.compiler.list_backends())
        raise ValueError(f'--torchcompile {args.torchcompile!r} is not one of {backends}.')
    for name in ('data_dir', 'class_map', 'class_stats', 'pretrained_path'):  # for who goes on from another folder
        if getattr(args, name):
            setattr(args, name, os.path.abspath(getattr(args, name)))
    if args.experiment is None:
        size = f'-{args.img_size}' if args.img_size else ''
        args.experiment = f'{datetime.now():%Y%m%d-%H%M%S}-{safe_model_name(args.model)}{size}'
    return args
