"""Tables of a training, an evaluation and a test part of a data set."""

import csv
import os
from pathlib import Path
from typing import Any, Dict, List, Union

import numpy as np

from .dataset import MultiLabelDataset
from .readers.base import LabelReader
from .stratify import stratify

__all__ = ['describe_parts', 'divide', 'write_parts']

Parts = Dict[str, LabelReader]


def divide(dataset: Any, val: float = 0.2, test: float = 0.0, seed: int = 0) -> Parts:
    """Divide a data set into 'train', 'val' and, if it has a share, 'test', stratified by label, see `stratify`.

    Images of a group stay together, if the data set was opened with a `group_column`.

    Args:
        dataset: Data set of `open_split`, of image files.
        val: Share of the images to evaluate on while training.
        test: Share of the images to test on.
        seed: Decides the choice.

    Raises:
        ValueError: If a share is out of range, there are too few images, or the data set is one of timm.
    """
    if not isinstance(dataset, MultiLabelDataset) or not isinstance(dataset.reader, LabelReader):
        raise ValueError(f'Split {dataset.split!r} is of a data set of timm, which has no table of files to divide.')
    for flag, share in (('--val', val), ('--test', test)):
        if not 0 <= share < 1 or (flag == '--val' and not share):
            raise ValueError(f'{flag} must be between 0 and 1, got {share}.')
    if val + test >= 1:
        raise ValueError(f'--val {val} and --test {test} leave nothing to train on: their sum must be below 1.')
    shares = {'train': 1 - val - test, 'val': val, **({'test': test} if test else {})}
    reader = dataset.reader
    chosen = stratify(reader.targets, list(shares.values()), seed, getattr(reader, 'groups', None))
    return {name: reader.subset(np.flatnonzero(chosen == part)) for part, name in enumerate(shares)}


def describe_parts(parts: Parts) -> str:
    """List how many images of each class every part has, and the classes that are not in all of them."""
    counts = np.stack([(reader.targets > 0).sum(axis=0) for reader in parts.values()], axis=1)  # (L, P)
    names = next(iter(parts.values())).class_names
    rows = [('images', [len(reader) for reader in parts.values()]), *zip(names, counts.tolist())]
    width = max(len(name) for name, _ in rows)
    lines = [f'  {"":<{width}} ' + ' '.join(f'{part:>7}' for part in parts)]
    lines += [f'  {name:<{width}} ' + ' '.join(f'{count:>7}' for count in of_parts) for name, of_parts in rows]
    few = [f'{name!r} ({count.sum()})' for name, count in zip(names, counts) if not count.all()]
    if few:
        shown = ', '.join(few[:10]) + (', ...' if len(few) > 10 else '')
        lines.append(
            f'Warning: {len(few)} classes have too few images (or groups) of their own for every part: {shown}.'
        )
    return '\n'.join(lines)


def write_parts(parts: Parts, folder: Union[str, Path]) -> List[Path]:
    """Write each part as a table for `--dataset csv`: 1 present, 0 absent, -1 unknown. File names start as they did.

    Raises:
        FileExistsError: If there is such a table already.
    """
    folder = Path(folder)
    paths = [folder / f'{name}.csv' for name in parts]
    for path in paths:
        if path.exists():
            raise FileExistsError(f'{str(path)!r} exists already: give another --output, or remove it.')
    folder.mkdir(parents=True, exist_ok=True)
    for path, reader in zip(paths, parts.values()):
        draft = path.with_suffix('.tmp')
        with open(draft, 'w', newline='', encoding='utf-8') as file:
            writer = csv.writer(file)
            writer.writerow(['image', *reader.class_names])
            writer.writerows([name, *target] for name, target in zip(reader.files, reader.targets.tolist()))
        os.replace(draft, path)
    return paths
