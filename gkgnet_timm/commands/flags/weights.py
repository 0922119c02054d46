"""Flags of `weights`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('weights'),
        description='List the pretrained weights: classes, source, licence, size, cost, published figure, and where '
        'they are installed.',
    )
    parser.add_argument('action', nargs='?', choices=('list',), default='list', help='(default: list)')
    return parser
