"""Flags of `serve`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, add_device_flags, add_model_flags, add_reading_flags, add_threshold_flag

MAX_PIXELS = 50_000_000


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('serve'),
        description='Label images on a page in the browser, which also shows where a label graph looked, and answer '
        'POST /predict of other programs, see /docs there. Needs the extra serve.',
    )
    add_model_flags(
        parser,
        'any timm model',
        'checkpoint of train_multilabel.py, or an exported model; or weights for --model',
    )
    add_threshold_flag(parser.add_argument_group('labels'))
    add_reading_flags(parser.add_argument_group('reading of images'), MAX_PIXELS)
    group = parser.add_argument_group('server')
    group.add_argument(
        '--host',
        default='127.0.0.1',
        metavar='NAME',
        help='address to listen on (default: %(default)s, which this machine alone reaches)',
    )
    group.add_argument('--port', type=int, default=7860, metavar='N', help='0 for any (default: %(default)s)')
    group.add_argument(
        '--max-upload-mb', type=float, default=32.0, metavar='N', help='largest request (default: %(default)g)'
    )
    group.add_argument(
        '--queue',
        type=int,
        default=64,
        metavar='N',
        help='images that may wait for the model, of a request half as many (default: %(default)s)',
    )
    add_device_flags(parser, stops=False, amp='automatic mixed precision (default: no, whatever the checkpoint says)')
    parser.add_argument(
        '-b', '--batch-size', type=int, default=16, metavar='N', help='most images at a time (default: %(default)s)'
    )
    parser.set_defaults(amp_dtype='bfloat16', max_pixels=MAX_PIXELS)
    return parser
