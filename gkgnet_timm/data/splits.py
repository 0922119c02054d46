"""One split of a data set, opened by name and checked."""

from pathlib import Path
from typing import Any, List, Optional, Union

import torch.utils.data

from .check import check_files, describe
from .dataset import create_dataset

__all__ = ['DEFAULT_IMAGES', 'DEFAULT_SPLITS', 'open_split']

PARTS = ('train', 'val')

# by part
DEFAULT_SPLITS = {
    'demo': ('train', 'val'),
    'coco': ('train2014', 'val2014'),
    'voc': ('2007/trainval', '2007/test'),
    'gkgnet': ('train.data', 'val_test.data'),
    'csv': ('train.csv', 'val.csv'),
}
DEFAULT_IMAGES = {'gkgnet': ('train2014', 'val2014')}


def open_split(
    name: str,
    root: Union[str, Path, None] = None,
    split: Optional[str] = None,
    *,
    part: str = 'val',
    images: Optional[str] = None,
    class_map: Optional[str] = None,
    class_names: Optional[List[str]] = None,
    unknown: Optional[str] = None,
    drop_unlabelled: bool = False,
    bad_images: Union[str, Path, None] = None,
    num_classes: Optional[int] = None,
    target_format: Optional[str] = None,
    input_key: Optional[str] = None,
    target_key: Optional[str] = None,
    batch_size: Optional[int] = None,
    num_samples: Optional[int] = None,
    seed: Optional[int] = None,
    verbose: bool = True,
    **table_options: Any,
) -> torch.utils.data.Dataset:
    """Open a split of a data set and check that its image files exist.

    Arguments that are not listed here are those of `create_dataset`, from `input_key` on for data sets of timm only.

    Args:
        name: Name of the data set.
        root: Folder of the data set. 'demo' and data sets of the Hugging Face Hub need none.
        split: Name of the split (default: the usual one of the data set for this part).
        part: 'train' or 'val'. Streams are shuffled for 'train'.
        images: Folder of the images (default: the usual one, where the split has its default, too).
        bad_images: File that lists images that are missing or cannot be read, and are then skipped. None: the first
            of them is an error.
        verbose: Print a line about images and labels, and how a table was understood.
        table_options: Further arguments of `CsvReader`, for 'csv'.

    Returns:
        The data set, with the attributes `class_names`, `split` and `images`: the split and folder that were opened.

    Raises:
        FileNotFoundError: If an annotation file or image does not exist.
        ValueError: If root or split is missing, or see `create_dataset`.
    """
    if name != 'demo' and not root and not name.startswith('hf'):
        raise ValueError(f'--dataset {name} needs --data-dir.')
    if not split:
        if name not in DEFAULT_SPLITS:
            flag = '--train-split' if part == 'train' else '--split (in training: --val-split)'
            raise ValueError(f'--dataset {name} needs {flag}.')
        split = DEFAULT_SPLITS[name][PARTS.index(part)]
        if not images and name in DEFAULT_IMAGES:
            images = DEFAULT_IMAGES[name][PARTS.index(part)]
    dataset = create_dataset(
        name,
        root,
        split,
        images,
        class_map=class_map,
        class_names=class_names,
        unknown=unknown,
        drop_unlabelled=drop_unlabelled,
        bad_images=bad_images,
        num_classes=num_classes,
        target_format=target_format,
        input_key=input_key,
        target_key=target_key,
        is_training=part == 'train',
        batch_size=batch_size,
        num_samples=num_samples,
        seed=seed,
        **table_options,
    )
    dataset.split, dataset.images = split, images
    if verbose:
        print('\n'.join([describe(dataset, split), *getattr(dataset.reader, 'notes', ())]))
    if bad_images is None:
        check_files(dataset)
    return dataset
