"""Flags of `explain`."""

import argparse
from typing import Tuple

from ...runtime import command_line
from .groups import FlagParser, add_device_flags, add_model_flags, add_reading_flags, add_threshold_flag

FORMATS = ('png', 'svg', 'pdf')
_DESCRIPTION = (
    'Draw where the labels of images looked: the patches that each label chose in every stage and channel group. For '
    'each image, write NAME.png and NAME.json. The latter is a list with an object for each patch that was chosen: '
    'label, stage, group, rank (from 1), row, column (from 0), box ([x0, y0, x1, y1] in pixels of the upright image) '
    'and similarity (cosine). Neighbours are where a node looked, which is no proof that they caused its score.'
)


def _row_and_column(text: str) -> Tuple[int, int]:
    try:
        row, column = map(int, text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected ROW,COLUMN, got {text!r}') from None
    return row, column


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(prog=command_line('explain'), description=_DESCRIPTION)
    parser.add_argument(
        'images', nargs='+', metavar='IMAGES', help='images, glob patterns, folders or lists, as predict takes them'
    )
    parser.add_argument('--output', required=True, metavar='DIR', help='folder, created if it does not exist')
    parser.add_argument(
        '--format', nargs='+', choices=FORMATS, default=['png'], help='of the picture, one or several (default: png)'
    )
    add_model_flags(
        parser,
        'a model with a label graph: GKGNet, or gkgnet_backbone',
        'checkpoint of train_multilabel.py, or weights for --model',
    )
    add_reading_flags(parser.add_argument_group('reading of images'))
    group = parser.add_argument_group('what is explained')
    group.add_argument(
        '--labels',
        nargs='+',
        metavar='NAME',
        help='these labels, named after the images (default: those at their threshold, or else the best)',
    )
    group.add_argument('--topk', type=int, metavar='N', help='the N best labels of an image')
    group.add_argument(
        '--patch',
        type=_row_and_column,
        metavar='ROW,COL',
        help='in place of labels, a patch of the first map, from 0: its neighbours in a ViG trunk as a star',
    )
    group.add_argument(
        '--stages',
        nargs='+',
        type=int,
        metavar='N',
        help='from 1 (default: all; of the blocks of a ViG, four)',
    )
    add_threshold_flag(group)
    group = parser.add_argument_group('whether it matters')
    group = group.add_mutually_exclusive_group()
    group.add_argument(
        '--causal',
        action='store_true',
        help='for labels at their threshold, also measure how far scores drop when their chosen patches are greyed '
        'out, and when 20 random parts of the same area and shape are; write causal.csv',
    )
    group.add_argument(
        '--evaluate',
        action='store_true',
        help='in place of pictures, compare the patches with Grad-CAM (pip install \'gkgnet-timm[explain]\') over all '
        'images, at most 3 labels of each: deletion and insertion curves; write curves.csv and curves.png',
    )
    add_device_flags(parser, stops=False)
    parser.set_defaults(amp_dtype='bfloat16')
    return parser
