"""Flags of `selftest`."""

import argparse

from ...runtime import command_line
from .groups import FlagParser


def create_parser() -> argparse.ArgumentParser:
    parser = FlagParser(
        prog=command_line('selftest'),
        description='Check that this machine computes correctly: search and aggregation on the device against their '
        'obvious form in float64, a small model and a training step likewise; whether scores depend on threads and '
        'batches; and how fast it is. Prints a verdict for each, then a text for an issue, within a minute (some '
        'minutes where the kernels of a GPU are compiled). Exits with status 1 if something fails.',
    )
    parser.add_argument('--device', metavar='NAME', help='cpu, cuda, cuda:N or mps (default: cuda if there is one)')
    parser.add_argument(
        '--speed',
        action='store_true',
        help='also measure models at 448 and 576 px, in inference and training, against the dense graph and tresnet_l '
        '(some minutes; on a GPU 16 images in bfloat16, also compiled and as CUDA graphs)',
    )
    parser.add_argument('--json', metavar='FILE', help='also write the machine and all figures to this file')
    return parser
