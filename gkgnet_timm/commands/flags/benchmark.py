"""Flags of `benchmark`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, add_data_flags, add_where_flag

__all__ = ['DTYPES', 'create_parser']

DTYPES = ('float32', 'bfloat16', 'float16')


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('benchmark'),
        description='Measure latency, throughput, peak memory and construction of models, in inference or in training '
        'steps, and compare them with the dense graph of the published code (x dense), with the time the multiply-adds '
        'alone would take at the rate of large matrix products (x floor), and with other timm models. Or measure the '
        "loading of training images against timm's default transform and beside a training step, or the CPU time of "
        'predict for one image against that of importing timm, making the model and one pass. Models under comparison '
        'take turns in one process; memory and construction are measured in a fresh process for each.',
    )
    jobs = ('inference', 'training', 'loading', 'startup', 'cost')
    parser.add_argument('what', nargs='?', choices=jobs, default='inference')
    parser.add_argument(
        '--models',
        nargs='+',
        metavar='NAME',
        help='(default: gkgnet_224 gkgnet_448 gkgnet_576; training: the first two; with --img-sizes: the last; cost: '
        'all of this package)',
    )
    parser.add_argument(
        '--compare',
        nargs='+',
        default=[],
        metavar='NAME',
        help='other timm models, at all sizes (default for cost: resnet101, tresnet_l, and that with ML-Decoder)',
    )
    parser.add_argument(
        '--img-sizes', nargs='+', type=int, metavar='N', help="sides of the images (default: the models' own)"
    )
    parser.add_argument('-b', '--batch-size', nargs='+', type=int, metavar='N', help='(default: 1, training: 4)')
    parser.add_argument(
        '--amp-dtypes', nargs='+', default=['float32'], metavar='TYPE', help=f'{", ".join(DTYPES)} (default: float32)'
    )
    parser.add_argument(
        '--compile', nargs='?', const='inductor', metavar='BACKEND', help='also measure compiled models (inductor)'
    )
    parser.add_argument(
        '--no-dense', action='store_true', help='leave out the dense graph, which is too big at large sizes'
    )
    parser.add_argument('--device', default='cpu', metavar='NAME', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--repeat', type=int, default=5, metavar='N', help='timed passes of each (default: 5)')
    parser.add_argument('--json', metavar='FILE', help='also write the machine and all figures to this file')
    parser.add_argument('--csv', metavar='FILE', help='cost: also write the table to this file')
    parser.add_argument('--plot', metavar='FILE', help='also draw time and memory against size (png, pdf or svg)')
    add_data_flags(parser)
    add_where_flag(parser)
    parser.add_argument('--split', metavar='NAME', help='loading: split of the data set')
    parser.set_defaults(workers=2)
    return parser
