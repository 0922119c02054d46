"""Division of a data set into tables for training, evaluation and test."""

import os
from pathlib import Path
from typing import List, Optional

from ..data.dataset import form_of
from ..data.division import describe_parts, divide, write_parts
from ..runtime import command_line
from .flags.split import create_parser
from .selected import open_selected


def main(argv: Optional[List[str]] = None) -> List[Path]:
    """Divide the data set of the flags, print what each part has, and return the tables written."""
    args = create_parser().parse_args(argv)
    if args.dataset in (None, 'csv') and not args.split:
        raise ValueError('Give the table to divide.')
    args.dataset = args.dataset or form_of(args.split) or 'csv'
    if args.dataset == 'csv' and not args.data_dir:
        args.data_dir = str(Path(args.split).parent)
    dataset = open_selected(
        args,
        split=args.split,
        part='train',
        images=args.images,
        bad_images=os.devnull,  # no image is opened
    )
    parts = divide(dataset, args.val, args.test, args.seed)
    paths = write_parts(parts, args.output)
    print(describe_parts(parts))
    print(f'Wrote {", ".join(map(str, paths))}.')
    flags = ['--dataset', 'csv', '--data-dir', str(dataset.reader.root)]
    for flag, path in zip(('--train-split', '--val-split'), paths):
        flags += [flag, str(path.absolute())]
    print(f'To train on them: {command_line("train", *flags)}')
    return paths
