"""Flags of `push`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('push'),
        description='Upload weights to the Hugging Face Hub, with a README.md made from config.json and from a result '
        'of validate.py. The folder stays as it is. Log in first: hf auth login.',
    )
    parser.add_argument('folder', metavar='DIR', help='written by convert, or by export')
    parser.add_argument('--repo-id', required=True, metavar='ORG/NAME', help='repository, created if it does not exist')
    parser.add_argument('--results', metavar='FILE', help='json written by validate.py --results-file')
    parser.add_argument(
        '--license', metavar='ID', help='licence of the weights, such as apache-2.0, if not that of config.json'
    )
    parser.add_argument('--private', action='store_true', help='make the repository private, and the Space')
    parser.add_argument(
        '--space',
        nargs='?',
        const=True,
        metavar='ORG/NAME',
        help='upload a Space, too: a page where visitors drop an image and see its labels (default name: that of the '
        'repository)',
    )
    parser.add_argument('--dry-run', action='store_true', help='show what would be uploaded, send nothing')
    return parser
