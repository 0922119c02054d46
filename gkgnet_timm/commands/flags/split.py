"""Flags of the command split."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, add_data_flags, add_where_flag


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('split'),
        description='Divide a data set into tables train.csv, val.csv and test.csv that have each label in the same '
        'proportion, and rare labels in every one.',
    )
    parser.add_argument('split', nargs='?', metavar='SPLIT', help='table, or split of another --dataset')
    parser.add_argument('--val', type=float, default=0.2, metavar='F', help='share of val.csv (default: %(default)s)')
    parser.add_argument(
        '--test', type=float, default=0.0, metavar='F', help='share of test.csv (default: no such file)'
    )
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='decides the choice (default: %(default)s)')
    parser.add_argument('--output', default='.', metavar='DIR', help='folder of the tables (default: the current one)')
    add_where_flag(parser)
    add_data_flags(parser)
    parser.add_argument('--images', metavar='DIR', help='folder of the images, unless the split determines it')
    return parser
