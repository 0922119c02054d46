"""One split of a data set, opened by name and checked."""

import os
from pathlib import Path
from typing import Any, Collection, List, Optional, Tuple, Union

import numpy as np

from ..runtime import locate
from .check import check_files, describe, notes_of
from .dataset import KnownTarget, MultiLabelDataset, check_dataset_name, create_dataset
from .readers.base import LabelReader
from .stratify import stratify

__all__ = ['DEFAULT_IMAGES', 'DEFAULT_SPLITS', 'hold_out', 'open_split', 'pick_images', 'select_files']

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
    drop_empty_classes: bool = False,
    bad_images: Union[str, Path, None] = None,
    num_classes: Optional[int] = None,
    target_format: Optional[str] = None,
    input_key: Optional[str] = None,
    target_key: Optional[str] = None,
    batch_size: Optional[int] = None,
    num_samples: Optional[int] = None,
    seed: Optional[int] = None,
    verbose: bool = True,
    bit_depth: Optional[int] = None,
    background: Optional[str] = None,
    max_pixels: Optional[int] = None,
    **table_options: Any,
) -> Union[MultiLabelDataset, Any]:
    """Open a split of a data set and check that its image files exist.

    Arguments that are not listed here are those of `create_dataset`. Those from `input_key` to `seed` are
    for data sets of timm only.

    Args:
        name: Name of the data set.
        root: Folder of the data set. 'demo' and data sets of the Hugging Face Hub need none.
        split: Name of the split (default: the usual one of the data set for this part).
        part: 'train' or 'val'. Streams are shuffled for 'train'.
        images: Folder of the images (default: the usual one, where the split has its default, too).
        bad_images: File that lists images that are missing or cannot be read, and are then skipped. None: the first
            of them is an error.
        verbose: Print a line about images and labels, and what else the user should know of.
        table_options: Further arguments of `CsvReader`, for 'csv'.

    Returns:
        A `MultiLabelDataset`, or for streams of timm ('hfids/', 'wds/', 'tfds/') its `IterableImageDataset`. Both have
        the attributes `class_names`, `split` and `images`: the split and folder that were opened.

    Raises:
        FileNotFoundError: If an annotation file or image does not exist.
        ValueError: If root or split is missing, or see `create_dataset`.
    """
    check_dataset_name(name)
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
        drop_empty_classes=drop_empty_classes,
        bad_images=bad_images,
        num_classes=num_classes,
        target_format=target_format,
        input_key=input_key,
        target_key=target_key,
        is_training=part == 'train',
        batch_size=batch_size,
        num_samples=num_samples,
        seed=seed,
        bit_depth=bit_depth,
        background=background,
        max_pixels=max_pixels,
        **table_options,
    )
    split = _shorten(split, root)
    dataset.split, dataset.images = split, images
    if verbose:
        print(describe(dataset, split))
        for note in notes_of(dataset, decides=class_names is None):
            print(note)
    if bad_images is None:
        check_files(dataset)
    return dataset


def _shorten(split: str, root: Union[str, Path, None]) -> str:
    """Name a file from its data folder, else from the current one, for people and for cards of models."""
    for folder in (root, os.curdir) if root and os.path.isabs(split) else ():
        inside = os.path.relpath(split, folder)
        if not inside.startswith(os.pardir) and locate(inside, str(root)) == os.path.abspath(split):
            return inside
    return split


def select_files(dataset: Any, files: Collection[str], *, others: bool = False) -> MultiLabelDataset:
    """Return the part of a split that has these files.

    Args:
        dataset: Data set of `open_split`, of image files.
        files: Their names, as `dataset.filename` gives them.
        others: Take all files but these.

    Raises:
        ValueError: If the split does not have one of the files, or the data set is one of timm.
    """
    if not isinstance(dataset, MultiLabelDataset) or not isinstance(dataset.reader, LabelReader):
        raise ValueError(
            f'Split {dataset.split!r} is of a data set of timm, of which no part can be taken: give --val-split in '
            "place of --val-fraction, such as 'train[80%:]' for hfds."
        )
    chosen = set(files)
    if missing := chosen.difference(dataset.reader.files):
        raise ValueError(
            f'{len(missing)} of the {len(chosen)} images that the training held out are not in split '
            f'{dataset.split!r}, such as {min(missing)!r}: restore it, or give --split.'
        )
    rows = [row for row, name in enumerate(dataset.reader.files) if (name in chosen) != others]
    part = MultiLabelDataset(dataset.reader.subset(rows), dataset.target_transform, dataset.bad_images, dataset.decoder)
    part.split, part.images = dataset.split, dataset.images
    return part


def pick_images(dataset: Any, count: int) -> MultiLabelDataset:
    """Return a part of a split in which rare classes have as many images as frequent ones, as far as there are any.

    Args:
        dataset: Data set of `open_split`, of image files.
        count: Number of images, at most those of the split.

    Raises:
        ValueError: If the data set is one of timm.
    """
    if not isinstance(dataset, MultiLabelDataset) or not isinstance(dataset.reader, LabelReader):
        raise ValueError(
            f'--max-images {count}: split {dataset.split!r} is of a data set of timm, of which no part can be taken: '
            "give another --split, such as 'test[:1000]' for hfds, or --num-samples for streams."
        )
    rows = np.random.default_rng(0).permutation(len(dataset))
    positive = dataset.targets()[rows] > 0
    # of each class the first images, then the second ones, and so on; those without a label last
    turn = np.where(positive, positive.cumsum(axis=0), len(rows) + 1).min(axis=1)
    chosen = rows[np.argsort(turn, kind='stable')[:count]]
    return select_files(dataset, [dataset.reader.files[row] for row in chosen])


def hold_out(
    dataset: Any, fraction: float, seed: int, files: Optional[Collection[str]] = None
) -> Tuple[MultiLabelDataset, MultiLabelDataset]:
    """Divide a split into one to train on and one to evaluate on, stratified by label.

    Images of a group stay together, if the data set was opened with a `group_column`.

    Unknown labels are unknown in the second, whatever they are in the first, unless a table says otherwise: there
    --unknown-labels holds in evaluation, too.

    Args:
        dataset: Data set of `open_split`.
        fraction: Share of the second part.
        seed: Decides the choice.
        files: Files of the second part, if they have been chosen before.

    Raises:
        ValueError: If there are too few images, or see `select_files`.
    """
    if files is None:
        select_files(dataset, ())
        groups = getattr(dataset.reader, 'groups', None)  # of a table
        parts = stratify(dataset.reader.targets, (1 - fraction, fraction), seed, groups)
        files = [dataset.reader.files[row] for row in np.flatnonzero(parts)]
    second = select_files(dataset, files)
    meaning = getattr(dataset.reader, 'meaning', None)  # of a table
    second.target_transform = KnownTarget(meaning.unknown or 'ignore' if meaning else 'ignore')
    return select_files(dataset, files, others=True), second
