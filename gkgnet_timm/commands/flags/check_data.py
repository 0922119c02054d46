"""Flags of the command check-data."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, add_data_flags, add_where_flag


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('check-data'),
        description='Count images and classes of a data set and read all images. Exits with status 2 if any cannot be '
        'read.',
    )
    add_data_flags(parser)
    add_where_flag(parser)
    parser.add_argument('--split', nargs='+', metavar='NAME', help='(default: both usual ones of the data set)')
    parser.add_argument('--images', metavar='DIR', help='folder of the images, unless the split determines it')
    parser.add_argument(
        '--drop-empty-classes', action='store_true', help='leave out classes that no image of the first split has'
    )
    parser.add_argument('--num-samples', type=int, metavar='N', help='length of a stream')
    return parser
