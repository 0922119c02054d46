"""Class order of a published `.data` file, recovered by comparison with the annotations of COCO."""

from pathlib import Path
from typing import List, NamedTuple, Union

import numpy as np

from ..class_names import COCO_CLASSES
from .readers.coco import CocoReader
from .readers.gkgnet import read_records

__all__ = ['ClassOrder', 'compare_class_order', 'describe_order', 'recover_class_order']

_CLEAR = 0.9  # lowest agreement of a column with its category; crowds may be counted differently in both files


class ClassOrder(NamedTuple):
    """Result of comparing a `.data` file with a COCO json.

    Attributes:
        class_names: Class of each column.
        categories: Classes of the json in ascending category id.
        common: Number of images in both files; only these are compared.
        only_data: Number of images in the `.data` file alone.
        only_coco: Number of images in the json alone.
        different: Number of labels of the common images that differ.
    """

    class_names: List[str]
    categories: List[str]
    common: int
    only_data: int
    only_coco: int
    different: int


def compare_class_order(data_file: Union[str, Path], coco_json: Union[str, Path]) -> ClassOrder:
    """Find the COCO category of each column of a published `.data` file.

    It is the category found in the same images. A few images may disagree, such as those with crowds: agreement is the
    F1 of both sets of images; column and category must each be the other's only best match, with at least 0.9.

    Args:
        data_file: `.data` file.
        coco_json: COCO json of the same images, or of some of them.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is malformed, the files share no image, or a column has no clear category.
    """
    files, labels = read_records(data_file, Path(data_file).parent)
    coco = CocoReader(coco_json, Path(coco_json).parent)  # no image is opened
    row = {name: i for i, name in enumerate(coco.files)}
    common = [i for i, name in enumerate(files) if name in row]
    if not common:
        raise ValueError(
            f'{str(data_file)!r} and {str(coco_json)!r} share no image, the first are {files[0]!r} and '
            f'{coco.files[0]!r}. Give the json of the same split.'
        )
    labels, targets = labels[common], coco.targets[[row[files[i]] for i in common]]

    both = labels.T.astype(np.float32) @ targets.astype(np.float32)  # exact up to 16 million images
    total = labels.sum(axis=0, dtype=int)[:, None] + targets.sum(axis=0, dtype=int)
    agreement = np.where(total > 0, 2 * both / np.maximum(total, 1), 1)  # two empty sets are equal
    best = agreement.argmax(axis=1)
    for column, values in enumerate(agreement):
        value = values[best[column]]
        rivals = (values == value).sum() + (agreement[:, best[column]] >= value).sum() - 2  # without the pair itself
        if value < _CLEAR or rivals:
            nearest = ', '.join(f'{coco.class_names[i]!r} ({values[i]:.3f})' for i in np.argsort(-values)[:2])
            problem = f'expected at least {_CLEAR}' if value < _CLEAR else 'another column or category fits as well'
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
    """Recover the class of each column of a published `.data` file, see `compare_class_order`."""
    return compare_class_order(data_file, coco_json).class_names


def describe_order(order: ClassOrder, data_file: Union[str, Path], coco_json: Union[str, Path]) -> str:
    """Describe in two lines what was compared, and how the order differs from that of ascending COCO id."""
    count = len(order.class_names)
    others = sum(a != b for a, b in zip(order.class_names, order.categories))
    verdict = f'are not in the order of ascending COCO id, {others} differ' if others else 'are in ascending COCO id'
    usual = order.class_names == list(COCO_CLASSES)
    remedy = 'as is assumed without --class-map' if usual else 'give the names with --class-map'
    return (
        f'{order.common} images compared, {order.different} labels differ; left out: {order.only_data} images only in '
        f'{str(data_file)!r}, {order.only_coco} only in {str(coco_json)!r}.\n'
        f'The {count} columns {verdict}: {remedy}.'
    )
