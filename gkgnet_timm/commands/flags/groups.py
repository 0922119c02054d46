"""TODO commands.flags.groups."""

import argparse
import os
from typing import Any, List

import torch

from timm.utils import ParseKwargs

__all__ = ['KeyValues', 'add_data_args', 'add_run_args']


class KeyValues(ParseKwargs):
    """timm's KEY=VALUE pairs, with an error for what is none."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: List[str], option: Any = None) -> None:
        odd = next((value for value in values if '=' not in value), None)
        if odd is not None:
            parser.error(f'{option}: expected KEY=VALUE, got {odd!r}')
        super().__call__(parser, namespace, values, option)


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Flags of the data set, for all commands."""
    group = parser.add_argument_group('data')
    group.add_argument(
        '--dataset', metavar='NAME', help='demo, coco, voc, gkgnet, csv, or hfds/..., hfids/..., wds/... of timm'
    )
    group.add_argument('--data-dir', metavar='DIR', help='folder of the data set, not needed for demo')
    group.add_argument('--class-map', metavar='FILE', help='class names, one on each line, where annotations have none')
    group.add_argument('--num-classes', type=int, metavar='N', help='for data sets of timm that name no classes')
    group.add_argument('--drop-unlabelled', action='store_true', help='coco: leave out images without annotations')
    group.add_argument('--input-key', metavar='KEY', help='field of the image in data sets of timm')
    group.add_argument('--target-key', metavar='KEY', help='field of the labels in data sets of timm')
    group.add_argument('--target-format', choices=('indices', 'multihot'), help='of the labels in data sets of timm')
    group.add_argument(
        '-j', '--workers', type=int, default=min(4, os.cpu_count() or 1), metavar='N', help='processes that load images'
    )


def add_run_args(parser: argparse.ArgumentParser) -> None:
    """Flags of how a model runs over images."""
    group = parser.add_argument_group('device')
    group.add_argument(
        '--on-bad-image', choices=('error', 'skip'), default='error', help='stop at an unreadable image, or drop it'
    )
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    group.add_argument('--device', default=device, metavar='NAME', help='cpu, cuda, cuda:1, mps, ...')
    group.add_argument('--amp', action=argparse.BooleanOptionalAction, default=None, help='automatic mixed precision')
    group.add_argument('--amp-dtype', choices=('bfloat16', 'float16'), help='(default: bfloat16)')
    group.add_argument('--channels-last', action='store_true', help='memory layout')
