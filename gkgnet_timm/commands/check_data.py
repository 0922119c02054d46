"""A look at a data set: counts, classes, files, sizes."""

import argparse
from typing import Dict, List, Optional

import numpy as np

from ..data import MultiLabelDataset, create_dataset
from ..data.check import class_counts, decode_all, describe
from ..data.splits import DEFAULT_IMAGES, DEFAULT_SPLITS, data_kwargs
from .flags.groups import add_data_args


def main(argv: Optional[List[str]] = None) -> Dict[str, List[str]]:
    """Check the splits of the flags and print what there is; returns the unreadable images of each.

    Raises:
        ValueError: If images can't be read, behind all there is to say.
    """
    parser = argparse.ArgumentParser(
        prog='python -m gkgnet_timm check-data',
        description='Count images and classes of a data set and read all of its images. Status 2 if any is unreadable.',
    )
    add_data_args(parser)
    parser.add_argument('--split', nargs='+', metavar='NAME', help='(default: the usual ones of the data set)')
    parser.add_argument('--images', metavar='DIR', help='folder of the images, where the split does not say')
    parser.add_argument('--num-samples', type=int, metavar='N', help='length of a stream')
    args = parser.parse_args(argv)
    args.dataset = args.dataset or 'demo'
    if args.dataset != 'demo' and not args.data_dir and not args.dataset.startswith('hf'):
        raise ValueError(f'--dataset {args.dataset} needs --data-dir.')
    splits = args.split or DEFAULT_SPLITS.get(args.dataset)
    if not splits:
        raise ValueError(f'--dataset {args.dataset} needs --split.')
    folders = (
        [args.images] * len(splits) if args.images or args.split else DEFAULT_IMAGES.get(args.dataset, (None, None))
    )

    bad: Dict[str, List[str]] = {}
    class_names = None
    for split, folder in zip(splits, folders):
        kwargs = data_kwargs(args)
        if '/' in args.dataset:
            kwargs.update(num_samples=args.num_samples)
        dataset = create_dataset(split=split, images=folder, class_names=class_names, **kwargs)
        class_names = dataset.class_names
        print(describe(dataset, split))
        if not isinstance(dataset, MultiLabelDataset):
            continue
        counts, total = class_counts(dataset)
        width = max(map(len, class_names))
        for name, count in zip(class_names, counts.tolist()):
            print(f'  {name:<{width}} {count:>7} {100 * count / total:6.2f} %')
        sizes, bad[split] = decode_all(dataset, args.workers)
        if len(sizes):
            low, middle, high = np.percentile(sizes, (0, 50, 100), axis=0).round().astype(int)
            print(
                f'  {len(sizes)} images read, width {low[0]} to {high[0]}, median {middle[0]}; '
                f'height {low[1]} to {high[1]}, median {middle[1]}'
            )
        print('\n'.join(f'  {message}' for message in bad[split]))
    unreadable = sum(map(len, bad.values()))
    if unreadable:
        raise ValueError(f'{unreadable} images can not be read, see above.')
    return bad
