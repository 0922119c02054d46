"""Checks and counts of a data set before a model sees it."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .dataset import MultiLabelDataset
from .images import BadImageError
from .progress_bar import ProgressBar
from .readers.base import LabelReader, first_names

__all__ = [
    'check_files',
    'check_labels',
    'check_negatives',
    'check_splits',
    'class_counts',
    'class_table',
    'decode_all',
    'describe',
    'describe_sizes',
    'notes_of',
]


def class_counts(dataset: Any) -> Tuple[torch.Tensor, int]:
    """Count the images with each class (L,), and all images.

    Raises:
        ValueError: If the data set is a stream, which cannot be counted without reading it.
    """
    if not isinstance(dataset, MultiLabelDataset):
        raise ValueError('A stream has no class counts, give --class-stats FILE.')
    targets = dataset.targets()
    return torch.from_numpy(np.count_nonzero(targets > 0, axis=0)), len(targets)


def describe(dataset: Any, split: str) -> str:
    """Describe images and labels of a split in a line."""
    if not isinstance(dataset, MultiLabelDataset):
        return f'{split}: a stream of about {len(dataset)} images, {len(dataset.class_names)} classes'
    targets = dataset.targets()
    positive = targets > 0
    counts = np.count_nonzero(positive, axis=0)
    empty = len(targets) - np.count_nonzero(positive.any(axis=1))
    unknown = np.count_nonzero(targets < 0)
    return (
        f'{split}: {len(targets)} images, {empty} of them without a label, {counts.sum() / len(targets):.2f} labels an '
        f'image; {len(counts)} classes of {counts.min()} to {counts.max()} images'
        + (f', {np.count_nonzero(counts == 0)} without any' if not counts.all() else '')
        + (f'; {unknown} labels unknown' if unknown else '')
    )


def notes_of(dataset: Any, decides: bool) -> List[str]:
    """List what a user should know about a split, a sentence each.

    Args:
        dataset: Split.
        decides: Whether it decides which classes there are.
    """
    if not isinstance(dataset, MultiLabelDataset) or not isinstance(dataset.reader, LabelReader):
        return []
    notes = list(dataset.reader.notes)
    spellings: Dict[str, List[str]] = {}
    for name in dataset.class_names if decides else ():
        spellings.setdefault(name.casefold(), []).append(name)
    if alike := [names for names in spellings.values() if len(names) > 1]:
        notes.append(
            f'Warning: classes {first_names(sum(alike, []))} differ in case only. Rename them if they are one.'
        )
    empty = [name for name, count in zip(dataset.class_names, class_counts(dataset)[0].tolist()) if not count]
    if empty and decides:
        notes.append(
            f'Warning: no image has {"class" if len(empty) == 1 else "classes"} {first_names(empty)}. Training and '
            'check-data leave them out with --drop-empty-classes.'
        )
    return notes


def class_table(dataset: MultiLabelDataset) -> str:
    """List the classes, one a line: name, number of images, share of all images."""
    counts, total = class_counts(dataset)
    width = max(map(len, dataset.class_names))
    return '\n'.join(
        f'  {name:<{width}} {count:>7} {100 * count / total:6.2f} %'
        for name, count in zip(dataset.class_names, counts.tolist())
    )


def check_files(dataset: Any) -> None:
    """Raise a FileNotFoundError that names the first missing image file."""
    if isinstance(dataset, MultiLabelDataset) and isinstance(dataset.reader, LabelReader):
        missing = dataset.reader.missing_files()
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(dataset)} images of {dataset.reader.source!r} do not exist, the first is '
                f'{missing[0]!r}{dataset.reader.hint(missing[0])}. Check the image folder, or leave them out with '
                '--on-bad-image skip.'
            )


def check_negatives(targets: np.ndarray, source: Union[str, Path]) -> None:
    """Raise a ValueError if targets (N, L) have no 0: then any scores would rank every class without fault."""
    if not (targets == 0).any():
        raise ValueError(
            f'{str(source)!r}: no label of any class is known to be absent, all are present or unknown. Nothing can be '
            'learned or measured without negatives: write 0 for labels that are absent, or say what unknown ones are '
            'with --unknown-labels negative.'
        )


def check_labels(dataset: Any) -> None:
    """Raise a ValueError if no label of a split is known to be absent. Streams are not read."""
    if isinstance(dataset, MultiLabelDataset) and isinstance(dataset.reader, LabelReader):
        check_negatives(dataset.targets(), dataset.reader.source)


def check_splits(train_set: Any, val_set: Any, allow_same: bool = False) -> int:
    """Count the images that are in both splits.

    Raises:
        ValueError: If both splits have exactly the same images, unless that is allowed.
    """
    if not all(
        isinstance(data, MultiLabelDataset) and isinstance(data.reader, LabelReader) for data in (train_set, val_set)
    ):
        return 0
    train, val = (set(data.filenames(absolute=True)) for data in (train_set, val_set))
    if train == val and not allow_same:
        raise ValueError(
            f'Training split {train_set.reader.source!r} and evaluation split {val_set.reader.source!r} are the same '
            f'{len(val)} images: give another --val-split; or --val-fraction 0.2 to hold out a part of them, --no-val '
            'to train without evaluation, or --allow-same-split.'
        )
    return len(train & val)


class _Sizes(Dataset):
    """(width, height) of each decoded image, or why it cannot be read."""

    def __init__(self, dataset: MultiLabelDataset):
        self.dataset = dataset
        self.dataset.transform = self.dataset.bad_images = None
        self.dataset.decoder = replace(dataset.decoder, warnings_left=inf)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index][0].size
        except BadImageError as error:
            return str(error)


def decode_all(dataset: MultiLabelDataset, num_workers: int) -> Tuple[np.ndarray, List[str]]:
    """Read every image; return the sizes (M, 2) as (width, height), and why each of the others cannot be read."""
    loader = DataLoader(_Sizes(dataset), batch_size=None, num_workers=num_workers)
    results: List[Any] = []
    with ProgressBar(len(dataset), 'reading images') as bar:
        for result in loader:
            results.append(result)
            bar.update()
    sizes = [result for result in results if not isinstance(result, str)]
    return np.array(sizes, dtype=int).reshape(-1, 2), [result for result in results if isinstance(result, str)]


def describe_sizes(sizes: np.ndarray) -> str:
    """Describe the sizes (M, 2) of images, M > 0, in a line: smallest, largest and median."""
    low, middle, high = np.percentile(sizes, (0, 50, 100), axis=0).round().astype(int)
    width, height = (f'{low[i]} to {high[i]}, median {middle[i]}' for i in range(2))
    return f'  {len(sizes)} images read, width {width}; height {height}'
