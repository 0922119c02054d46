"""Flags of the command class-order."""

import argparse

from ...runtime import command_line
from .groups import FlagParser


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('class-order'),
        description='Recover the class names of a published .data file by comparison with the categories of a COCO '
        'json. Prints one name a line, as --class-map takes them.',
    )
    parser.add_argument('data', metavar='FILE.data', help='published annotation file')
    parser.add_argument('json', metavar='INSTANCES.json', help='COCO annotations of the same images')
    parser.add_argument('--output', metavar='FILE', help='(default: stdout)')
    return parser
