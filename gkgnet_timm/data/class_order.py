"""TODO data.class_order."""

from pathlib import Path
from typing import List, NamedTuple, Union

import numpy as np

from .readers.coco import CocoReader
from .readers.gkgnet import read_records

__all__ = ['ClassOrder', 'compare_class_order', 'recover_class_order']

_CLEAR = 0.9  # lowest agreement of a column with its category, which crowds that are counted otherwise can lower


class ClassOrder(NamedTuple):
    """What the comparison of a `.data` file with a COCO json gave.

    Attributes:
        class_names: Class of each column.
        categories: Classes of the json in ascending category id.
        common: Images in both files; the others are left out of the comparison.
        only_data: Images in the `.data` file alone.
        only_coco: Images in the json alone.
        different: Labels of the common images that differ.
    """

    class_names: List[str]
    categories: List[str]
    common: int
    only_data: int
    only_coco: int
    different: int


def compare_class_order(data_file: Union[str, Path], coco_json: Union[str, Path]) -> ClassOrder:
    """Find the COCO category of each column of a published `.data` file.

    It is the one that is in the same images. A few may disagree, such as those of crowds: agreement is the F1 of both
    sets of images, and column and category have to be each other's best, alone and by at least 0.9.

    Args:
        data_file: `.data` file.
        coco_json: COCO json of the same images, or of a part of them.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file holds something else, they share no image, or a column has no clear category.
    """
    files, labels = read_records(data_file)
    coco = CocoReader(coco_json, Path(coco_json).parent)  # no image is opened
    row = {name: i for i, name in enumerate(coco.files)}
    common = [i for i, name in enumerate(files) if name in row]
    if not common:
        raise ValueError(
            f'{str(data_file)!r} and {str(coco_json)!r} share no image, the first ones are {files[0]!r} and '
            f'{coco.files[0]!r}: give the json of the same split.'
        )
    labels, targets = labels[common], coco.targets[[row[files[i]] for i in common]]

    both = labels.T.astype(np.float32) @ targets.astype(np.float32)  # exact up to 16 million images
    total = labels.sum(axis=0, dtype=int)[:, None] + targets.sum(axis=0, dtype=int)
    agreement = np.where(total > 0, 2 * both / np.maximum(total, 1), 1)  # without images on either side: equal sets
    best = agreement.argmax(axis=1)
    for column, values in enumerate(agreement):
        value = values[best[column]]
        # besides themselves
        rivals = (values == value).sum() + (agreement[:, best[column]] >= value).sum() - 2
        if value < _CLEAR or rivals:
            nearest = ', '.join(f'{coco.class_names[i]!r} ({values[i]:.3f})' for i in np.argsort(-values)[:2])
            problem = f'at least {_CLEAR} is expected' if value < _CLEAR else 'another column or category fits as well'
            images = labels[:, column].sum(dtype=int)
            raise ValueError(
                f'{str(data_file)!r}: column {column + 1}, with {images} images, has no clear category in '
                f'{str(coco_json)!r}. Nearest by agreement: {nearest}; {problem}. Give the json of the same split, or '
                'name the columns by hand.'
            )
    return ClassOrder(
        class_names=[coco.class_names[i] for i in best],
        categories=coco.class_names,
        common=len(common),
        only_data=len(files) - len(common),
        only_coco=len(row.keys() - set(files)),
        different=int((labels != targets[:, best]).sum()),
    )


def recover_class_order(data_file: Union[str, Path], coco_json: Union[str, Path]) -> List[str]:
    """Class of each column of a published `.data` file, see `compare_class_order`."""
    return compare_class_order(data_file, coco_json).class_names
