"""Flags of `convert`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, KeyValues, add_ema_flag


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('convert'),
        description='Convert weights of any origin to a folder that timm and the Hub take: config.json, '
        'model.safetensors, README.md.',
    )
    parser.add_argument('checkpoint', metavar='FILE', help='published GKGNet or ViG checkpoint, or one of ours')
    parser.add_argument('--output', required=True, metavar='DIR', help='folder for the three files')
    parser.add_argument('--model', metavar='NAME', help='model of the weights; train_multilabel.py stores it itself')
    parser.add_argument('--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE')
    add_ema_flag(parser)
    parser.add_argument(
        '--class-order', metavar='FILE', help='class names in the order of the checkpoint, one per line'
    )
    parser.add_argument(
        '--thresholds', metavar='FILE', help='of validate.py --calibrate, to go with the weights: predict takes them'
    )
    parser.add_argument(
        '--install', action='store_true', help='let create_model(NAME, pretrained=True) load it from now on, offline'
    )
    return parser
