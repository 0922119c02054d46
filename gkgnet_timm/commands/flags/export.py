"""Flags of `export`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, KeyValues, add_data_flags, add_ema_flag, add_threshold_flag, add_where_flag


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('export'),
        description='Write a model as model.onnx and model.pt2 (torch.export) that take any number of images, with '
        'class names, thresholds and preprocessing beside them and code that uses them in README.md. Each file is '
        'compared with PyTorch. predict and validate run them: --checkpoint DIR/model.onnx.',
    )
    group = parser.add_argument_group('model')
    group.add_argument('--checkpoint', metavar='FILE', help='checkpoint of train_multilabel.py, or weights for --model')
    add_ema_flag(group)
    group.add_argument('--model', metavar='NAME', help='any timm model')
    group.add_argument('--pretrained', action='store_true', help='take the pretrained weights of --model')
    group.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE')
    add_threshold_flag(group)
    group = parser.add_argument_group('files')
    group.add_argument('--output', required=True, metavar='DIR', help='folder, created if it does not exist')
    group.add_argument('--format', nargs='+', default=('onnx', 'pt2'), metavar='NAME', help='onnx, pt2 (default: both)')
    group.add_argument('--img-size', type=int, metavar='N', help='image side in pixels')
    group.add_argument('--dynamic-size', action='store_true', help='take sides of any multiple of 32, square or not')
    group.add_argument('--half', action='store_true', help='also model_fp16.onnx, with weights of half the size')
    group.add_argument('--int8', action='store_true', help='also model_int8.onnx, with --calibration-images')
    group.add_argument('--neighbors', action='store_true', help='model.onnx also gives the patches of each label')
    group.add_argument('--opset', type=int, metavar='N', help="version of ONNX's operators (default: that of PyTorch)")
    group.add_argument(
        '--calibration-images',
        metavar='DIR',
        help='images to scale 8 bits by, and to compare the files on (default for the latter: drawn scenes)',
    )
    add_data_flags(parser)
    add_where_flag(parser)
    group = parser.add_argument_group('labelled split', 'With --dataset or --split, also compare the mAP of the files.')
    group.add_argument('--split', metavar='NAME', help='split to evaluate on')
    group.add_argument('--images', metavar='DIR', help='folder of the images, if the split does not say')
    group.add_argument('-b', '--batch-size', type=int, default=32, metavar='N')
    return parser
