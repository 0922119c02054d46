"""Check of a data set: counts, classes, files, sizes."""

import os
from typing import Dict, List, Optional

from ..data import MultiLabelDataset
from ..data.check import check_labels, class_table, decode_all, describe_sizes
from ..data.splits import DEFAULT_SPLITS
from .flags.check_data import create_parser
from .selected import choose_dataset, open_selected


def main(argv: Optional[List[str]] = None) -> Dict[str, List[str]]:
    """Check splits and print the findings; returns for each split why images cannot be read.

    Raises:
        ValueError: If images cannot be read, after everything is printed.
    """
    args = create_parser().parse_args(argv)
    args.dataset = choose_dataset(args.dataset, args.data_dir, args.split or ()) or 'demo'
    requests = [('val', split) for split in args.split or [None]]
    if not args.split and args.dataset in DEFAULT_SPLITS:
        requests = [('train', None), ('val', None)]
    bad: Dict[str, List[str]] = {}
    class_names = None
    for part, split in requests:
        dataset = open_selected(
            args,
            split=split,
            part=part,
            images=args.images,
            class_names=class_names,
            drop_empty_classes=args.drop_empty_classes,
            bad_images=None if '/' in args.dataset else os.devnull,  # decode_all lists missing files, too
            num_samples=args.num_samples,
        )
        class_names = dataset.class_names
        if not isinstance(dataset, MultiLabelDataset):
            continue
        print(class_table(dataset))
        try:
            check_labels(dataset)
        except ValueError as error:  # the images are read all the same
            print(f'Warning: {error}')
        sizes, bad[dataset.split] = decode_all(dataset, args.workers)
        if len(sizes):
            print(describe_sizes(sizes))
        print('\n'.join(f'  {message}' for message in bad[dataset.split]))
    unreadable = sum(map(len, bad.values()))
    if unreadable:
        raise ValueError(f'{unreadable} images cannot be read, see above.')
    return bad
