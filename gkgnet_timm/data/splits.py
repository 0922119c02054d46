"""TODO data.splits."""

import argparse
from typing import Any, Dict

__all__ = ['data_kwargs']

DEFAULT_SPLITS = {  # training, evaluation
    'demo': ('train', 'val'),
    'coco': ('train2014', 'val2014'),
    'voc': ('2007/trainval', '2007/test'),
    'gkgnet': ('train.data', 'val_test.data'),
    'csv': ('train.csv', 'val.csv'),
}

DEFAULT_IMAGES = {'gkgnet': ('train2014', 'val2014')}


def data_kwargs(args: argparse.Namespace) -> Dict[str, Any]:
    """Arguments of `create_dataset` that follow from the flags of `add_data_args`."""
    kwargs = dict(
        name=args.dataset,
        root=args.data_dir,
        class_map=args.class_map,
        drop_unlabelled=args.drop_unlabelled,
        num_classes=args.num_classes,
        target_format=args.target_format,
    )
    if '/' in args.dataset:
        kwargs.update(input_key=args.input_key, target_key=args.target_key)
    return kwargs
