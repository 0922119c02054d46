"""Flags of `validate`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, KeyValues, add_data_flags, add_device_flags, add_ema_flag, add_where_flag


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('validate'),
        description='Evaluate models on a labelled split. Options you omit are read from the checkpoint, so the '
        'metrics match those of training.',
    )
    add_data_flags(parser)
    add_where_flag(parser)
    parser.add_argument('--split', metavar='NAME', help='split to evaluate on')
    parser.add_argument('--images', metavar='DIR', help='folder of the images, if the split does not say')
    parser.add_argument('--num-samples', type=int, metavar='N', help='length of a stream')
    add_device_flags(parser)
    group = parser.add_argument_group('model')
    group.add_argument('--checkpoint', metavar='FILE', help='checkpoint of train_multilabel.py, or a folder of them')
    add_ema_flag(group)
    group.add_argument('--model', metavar='NAME', help='timm model; several by wildcards or a text file of names')
    group.add_argument('--pretrained', action='store_true', help='evaluate pretrained weights')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE')
    group.add_argument('-b', '--batch-size', type=int, default=32, metavar='N')
    group = parser.add_argument_group('preprocessing', 'As the model requires, unless given.')
    group.add_argument('--img-size', type=int, metavar='N', help='image side in pixels')
    group.add_argument('--crop-pct', type=float, metavar='PCT', help='share of the resized image that is kept')
    group.add_argument('--crop-mode', choices=('squash', 'border', 'center'))
    group.add_argument('--interpolation', choices=('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming'))
    group.add_argument('--mean', type=float, nargs='+', metavar='MEAN')
    group.add_argument('--std', type=float, nargs='+', metavar='STD')
    group.add_argument('--flip', action='store_true', help='average the logits of each image and its mirror image')
    group = parser.add_argument_group('result')
    group.add_argument(
        '--threshold',
        default='0.5',
        metavar='T',
        help='lowest score of a predicted label, or a file of --calibrate (default: %(default)s)',
    )
    group.add_argument('--calibrate', metavar='FILE', help='write the thresholds of highest F1 on this split')
    group.add_argument('--results-file', metavar='FILE', help='write the result')
    group.add_argument('--results-format', choices=('json', 'csv'), help='(default: by the suffix of the file)')
    group.add_argument('--metrics-by-class', metavar='FILE', help='write a csv with a row for each class')
    group.add_argument('--scores-out', metavar='FILE', help='write scores, targets, files and classes (npz)')
    group.add_argument('--scores-in', metavar='FILE', help='evaluate such a file, without a model')
    group.add_argument('--plots', metavar='DIR', help='draw precision over recall, AP by class and co-occurrence')
    parser.set_defaults(amp_dtype='bfloat16')
    return parser
