"""Flags of `train`, with the names of timm's training script. Defaults are those of `TrainConfig`."""

import argparse
from dataclasses import MISSING, fields
from typing import Any

from ...training.config import TrainConfig
from .config import packaged_configs
from .groups import FlagParser, KeyValues, add_data_flags, add_device_flags

__all__ = ['create_parser']

SCHEDULES = ('cosine', 'step', 'multistep', 'constant', 'poly', 'tanh', 'wsd', 'rsqrt')
LOSSES = ('gkgnet', 'bce', 'asl', 'poly', 'twoway', 'zlpr', 'db')


def create_parser() -> argparse.ArgumentParser:
    """The parser of `train`."""
    parser = FlagParser(
        prog='train_multilabel.py',
        description='Train a multi-label model. Flags have the names of timm. Without --dataset and --config: the '
        'config demo, a small model on a data set that is drawn on first use.',
    )
    defaults = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(TrainConfig)
        if item.name != 'dataset'
    }

    def flag(group: argparse._ArgumentGroup, *names: str, help: str = '', **kwargs: Any) -> None:
        action = group.add_argument(*names, help=help, **kwargs)
        action.default = defaults[action.dest]
        if action.default not in (None, {}) and 'default' not in help:
            action.help = f'{help} (default: %(default)s)'.strip()

    def switch(group: argparse._ArgumentGroup, *names: str, help: str = '') -> None:
        group.add_argument(*names, action='store_true', help=help)

    parser.add_argument(
        '-c',
        '--config',
        metavar='FILE',
        help='YAML with flags, or the name of a packaged one: ' + ', '.join(packaged_configs()),
    )
    add_data_flags(parser)
    group = parser.add_argument_group('splits')
    flag(group, '--train-split', metavar='NAME', help='name, or path of an annotation file')
    flag(group, '--val-split', metavar='NAME', help='the same for evaluation')
    flag(group, '--train-images', metavar='DIR', help='folder of the images, unless the split implies it')
    flag(group, '--val-images', metavar='DIR', help='the same for evaluation')
    flag(group, '--train-num-samples', type=int, metavar='N', help='length of a stream')
    flag(group, '--val-num-samples', type=int, metavar='N', help='the same for evaluation')
    flag(
        group,
        '--unknown-labels',
        choices=('ignore', 'positive', 'negative'),
        help='how to train on labels of -1: unknown ones, or difficult ones of voc (default: positive for voc, else '
        'ignore)',
    )

    group = parser.add_argument_group('model')
    flag(group, '--model', metavar='NAME', help='any timm model')
    switch(group, '--pretrained', help='start from the pretrained weights of its tag')
    flag(group, '--pretrained-path', metavar='FILE', help='start from this file: Pyramid ViG, GKGNet, or a checkpoint')
    switch(
        group,
        '--init-labels-by-name',
        help='keep label nodes and score rows of classes that the pretrained weights know by name',
    )
    flag(
        group,
        '--pos-embed-init',
        choices=('resample', 'zero'),
        help='position embedding if the pretrained weights are for another image size',
    )
    flag(group, '--img-size', type=int, metavar='N', help='image side in pixels (default: that of the model)')
    flag(group, '--drop', type=float, metavar='RATE', help='dropout before the classifier')
    flag(group, '--drop-path', type=float, metavar='RATE', help='stochastic depth')
    flag(group, '--model-kwargs', nargs='*', action=KeyValues, metavar='KEY=VALUE', help='more model arguments')
    switch(group, '--grad-checkpointing', help='less memory, more time')
    flag(group, '--torchcompile', nargs='?', const='inductor', metavar='BACKEND', help='compile the model')
    switch(group, '--sync-bn', help='share batch statistics between processes')
    flag(group, '--dist-bn', choices=('reduce', 'broadcast', ''), help='share running statistics after an epoch')
    add_device_flags(parser)

    group = parser.add_argument_group('optimisation')
    flag(group, '-b', '--batch-size', type=int, metavar='N', help='images per step and process')
    flag(group, '-vb', '--validation-batch-size', type=int, metavar='N', help='(default: batch size)')
    flag(group, '--grad-accum-steps', type=int, metavar='N', help='batches per update')
    flag(group, '--opt', metavar='NAME', help='any timm optimizer')
    flag(group, '--opt-eps', type=float, metavar='EPS')
    flag(group, '--opt-betas', type=float, nargs=2, metavar='BETA')
    flag(group, '--opt-kwargs', nargs='*', action=KeyValues, metavar='KEY=VALUE', help='more optimizer arguments')
    flag(group, '--lr', type=float, help='learning rate, whatever the batch size')
    flag(group, '--weight-decay', type=float, help='except for norms and biases')
    flag(group, '--momentum', type=float, help='for optimizers that have one')
    flag(group, '--layer-decay', type=float, metavar='RATE', help='layer-wise decay of the learning rate')
    flag(group, '--clip-grad', type=float, metavar='NORM', help='largest gradient, 0 for no limit')
    flag(group, '--clip-mode', choices=('norm', 'value', 'agc'))
    flag(group, '--max-bad-steps', type=int, metavar='N', help='updates per epoch that a non-finite loss may skip')

    group = parser.add_argument_group('schedule')
    flag(group, '--epochs', type=int, metavar='N')
    flag(group, '--sched', choices=SCHEDULES)
    flag(group, '--sched-on-updates', action=argparse.BooleanOptionalAction, help='step per update, not per epoch')
    flag(group, '--warmup-epochs', type=int, metavar='N')
    flag(group, '--warmup-lr', type=float, help='at the first update')
    flag(group, '--min-lr', type=float)
    flag(group, '--decay-milestones', type=int, nargs='+', metavar='N', help='multistep: first epochs at a lower rate')
    flag(group, '--decay-epochs', type=float, metavar='N', help='step: epochs per rate; wsd, rsqrt: of the decay')
    flag(group, '--decay-rate', type=float, help='step, multistep: factor; poly: power')
    flag(group, '--cooldown-epochs', type=int, metavar='N', help='at the lowest rate')

    group = parser.add_argument_group('loss')
    flag(group, '--loss', choices=LOSSES, help='(default: gkgnet for the models gkgnet*, else bce)')
    flag(group, '--smoothing', type=float, metavar='S', help='labels become S / 2 and 1 - S / 2')
    flag(group, '--loss-class-weight', metavar='W', help='bce, asl: number, list, file, inv_freq or effective_num')
    flag(group, '--loss-pos-weight', metavar='W', help='bce, asl: number, list, file or neg_pos')
    flag(group, '--loss-weight-power', type=float, help='of neg_pos and inv_freq')
    flag(group, '--loss-weight-beta', type=float, help='of effective_num')
    flag(group, '--loss-weight-max', type=float, help='largest weight')
    flag(group, '--class-stats', metavar='FILE', help='json with pos_counts and num_samples of a stream')
    switch(group, '--bce-sum', help='sum over classes')
    flag(group, '--asl-gamma-pos', type=float)
    flag(group, '--asl-gamma-neg', type=float)
    flag(group, '--asl-clip', type=float)
    flag(group, '--asl-reduction', choices=('batchmean', 'sum', 'mean'))
    flag(group, '--poly-epsilon', type=float)
    flag(group, '--poly-gamma', type=float)
    flag(group, '--poly-alpha', type=float)
    flag(group, '--twoway-tp', type=float)
    flag(group, '--twoway-tn', type=float)
    flag(group, '--db-neg-scale', type=float)
    flag(group, '--db-init-bias', type=float)
    flag(group, '--db-focal-gamma', type=float)

    group = parser.add_argument_group('augmentation')
    switch(group, '--no-aug', help='none at all')
    flag(group, '--cropmix', type=float, metavar='P', help='probability, in place of random crops')
    flag(group, '--train-crop-mode', choices=('rrc', 'rkrc', 'rkrr'), help='(default: rrc)')
    flag(group, '--scale', type=float, nargs=2, metavar='PCT', help='area of random crops')
    flag(group, '--ratio', type=float, nargs=2, metavar='RATIO', help='aspect ratio of random crops')
    flag(group, '--train-interpolation', metavar='NAME', help='random, bilinear, bicubic')
    flag(group, '--hflip', type=float, metavar='P')
    flag(group, '--vflip', type=float, metavar='P')
    flag(group, '--color-jitter', type=float, metavar='PCT')
    flag(group, '--aa', metavar='NAME', help='trivial, or a policy of timm such as rand-m9-mstd0.5, without jitter')
    flag(group, '--reprob', type=float, metavar='P', help='random erasing, with noise')
    flag(group, '--mixup', type=float, metavar='ALPHA')
    flag(group, '--cutmix', type=float, metavar='ALPHA')
    flag(group, '--mixup-prob', type=float, metavar='P', help='of either')
    flag(group, '--mixup-switch-prob', type=float, metavar='P', help='of cutmix if both are on')
    flag(group, '--mixup-mode', choices=('batch', 'pair', 'elem'))
    flag(group, '--mixup-off-epoch', type=int, metavar='N', help='stop mixing at this epoch')
    flag(group, '--oversample-thr', type=float, metavar='F', help='repeat images of classes rarer than this fraction')
    flag(group, '--aug-repeats', type=float, metavar='N', help='augmentations of an image in an epoch')

    group = parser.add_argument_group('average of the weights')
    switch(group, '--model-ema', help='also evaluate and keep a moving average')
    flag(group, '--model-ema-decay', type=float, metavar='RATE')
    switch(group, '--model-ema-warmup', help='lower decay at first')
    switch(group, '--model-ema-force-cpu', help='saves memory, without evaluation')

    group = parser.add_argument_group('output')
    flag(group, '--output', metavar='DIR', help='folder of all runs')
    flag(group, '--experiment', metavar='NAME', help='folder of this run (default: time, model, size)')
    group.add_argument(
        '--resume',
        metavar='FILE',
        help='continue from this checkpoint, or with auto from last.pth.tar of the experiment if there is one; its '
        'flags hold unless given anew',
    )
    flag(group, '--eval-metric', metavar='NAME', help='picks the best checkpoint')
    flag(group, '--log-interval', type=int, metavar='N', help='updates between lines')
    flag(group, '--checkpoint-hist', type=int, metavar='N', help='epoch checkpoints to keep')
    flag(group, '--seed', type=int)
    switch(group, '--log-wandb', help='log to Weights & Biases')
    flag(group, '--wandb-project', metavar='NAME')
    return parser
