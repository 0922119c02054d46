"""Pretrained weights: which there are, and which are installed; install, remove and verify them."""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from timm.models import PretrainedCfg

from ..benchmark.tables import markdown
from ..runtime import one_line
from ..weights.published import install_published, remove, tag_of, verify
from ..weights.source import NotDownloaded, check_online, installed_file, remedy
from ..weights.table import WeightsRow, weights_table
from .flags.weights import create_parser

COLUMNS = {
    'name': 'weights',
    'num_classes': 'classes',
    'source': 'source',
    'licence': 'licence',
    'img_size': 'px',
    'mega_parameters': 'M parameters',
    'giga_multiply_adds': 'G multiply-adds',
    'published': 'published',
    'names': 'label_names_verified',
    'installed': 'installed',
}


def _cells(row: WeightsRow) -> Dict[str, Any]:
    return row._asdict() | dict(
        num_classes=row.num_classes or 'trunk',
        mega_parameters=row.parameters / 1e6,
        names=None if row.label_names_verified is None else str(row.label_names_verified).lower(),
        installed=str(row.file) if row.is_installed else None,
    )


def _check(args: argparse.Namespace) -> None:
    """Raise a ValueError for arguments that do not belong together."""
    if args.action in ('install', 'remove') and not args.name:
        raise ValueError(f'weights {args.action} NAME: say which, weights list has all names.')
    if args.action == 'list' and args.name:
        raise ValueError(f'weights list takes no name, got {args.name!r}: give install, remove or verify before it.')
    if args.class_order and args.action != 'install':
        raise ValueError('--class-order is for weights install.')


def _install(cfg: PretrainedCfg, class_order: Optional[str]) -> Path:
    if not installed_file(cfg).is_file():
        check_online(cfg)
    try:
        return install_published(cfg, class_order=class_order)
    except NotDownloaded as error:
        name = f'{cfg.architecture}.{cfg.tag}'
        raise OSError(f'Weights of {name} are not installed: {one_line(error).rstrip(".")}. {remedy(cfg)}') from error


def _verify(cfgs: List[PretrainedCfg]) -> None:
    """Print what was found of each, and exit with status 1 if any is not what was installed."""
    failed = False
    if not cfgs:
        print('Nothing is installed.')
    for cfg in cfgs:
        try:
            record = verify(cfg)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            print(f'{cfg.architecture}.{cfg.tag}: as installed, SHA-256 {record["written"]}')
            print(f'  from {record.get("file")}, SHA-256 {record.get("sha256")}')
    if failed:
        sys.exit(1)


def main(argv: Optional[List[str]] = None) -> None:
    """Print a table of all pretrained weights, or do what is asked with some.

    Raises:
        OSError: If weights cannot be downloaded, or are not there.
        ValueError: If the arguments cannot work, or the weights are not what they should be.
    """
    args = create_parser().parse_args(argv)
    _check(args)
    cfg = tag_of(args.name) if args.name else None
    if args.action == 'install':
        print(f'Installed: {_install(cfg, args.class_order)}')
    elif args.action == 'remove':
        print(f'Removed: {remove(cfg)}')
    elif args.action == 'verify':
        installed = [row for row in weights_table() if row.is_installed]
        cfgs = {row.file: tag_of(row.name) for row in installed}
        _verify([cfg] if cfg else list(cfgs.values()))
    else:
        print(markdown([_cells(row) for row in weights_table()], COLUMNS))
