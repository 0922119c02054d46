"""Flags of `weights`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('weights'),
        description='List the pretrained weights: classes, source, licence, size, cost, published figure, and where '
        'they are installed. Or install some from their authors, so that no model needs the network for them again, '
        'remove them, or compare what is installed with the record of its installation.',
    )
    actions = ('list', 'install', 'remove', 'verify')
    parser.add_argument('action', nargs='?', choices=actions, default='list', help='(default: list)')
    parser.add_argument('name', nargs='?', metavar='NAME', help='of the weights; verify: all that are installed')
    parser.add_argument(
        '--class-order',
        metavar='FILE',
        help='install: class names in the order of the outputs, one on each line, as class-order writes them',
    )
    return parser
