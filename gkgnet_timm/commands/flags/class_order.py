"""Flags of the command class-order."""

import argparse

from ...runtime import command_line
from .groups import FlagParser, add_evaluation_flags


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('class-order'),
        description='Recover the class names of a published .data file by comparison with the categories of a COCO '
        'json; or those of the outputs of a model, with --checkpoint or --model, by its answers on a labelled split. '
        'Prints one name a line, as --class-map and --class-order take them.',
    )
    parser.add_argument('data', nargs='?', metavar='FILE.data', help='published annotation file')
    parser.add_argument('json', nargs='?', metavar='INSTANCES.json', help='COCO annotations of the same images')
    parser.add_argument('--output', metavar='FILE', help='(default: stdout)')
    parser.add_argument(
        '--max-images', type=int, metavar='N', help='evaluate this many images, of rare classes, too (default: all)'
    )
    add_evaluation_flags(parser, takes_several=False)
    return parser
