"""Class order of a published `.data` file, which has no class names, by comparison with COCO's annotations."""

import argparse
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional, Union

import numpy as np

from .class_names import COCO_CLASSES
from .data.coco import CocoReader
from .data.published import read_records

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


def main(argv: Optional[List[str]] = None) -> None:
    """Recover the class order of the flags, write it and say how it compares to COCO's."""
    parser = argparse.ArgumentParser(
        prog='python -m gkgnet_timm class-order',
        description='Class names of the columns of a published .data file, one on each line, as --class-map takes '
        'them. The columns are compared with the categories of a COCO json.',
    )
    parser.add_argument('data', metavar='FILE.data', help='published annotation file')
    parser.add_argument('json', metavar='INSTANCES.json', help='COCO annotations of the same images')
    parser.add_argument('--output', metavar='FILE', help='(default: stdout)')
    args = parser.parse_args(argv)
    order = compare_class_order(args.data, args.json)
    text = '\n'.join(order.class_names) + '\n'
    if args.output:
        Path(args.output).write_text(text, encoding='utf-8')
    else:
        sys.stdout.write(text)
    report = sys.stdout if args.output else sys.stderr  # not between the names
    print(
        f'{order.common} images compared, {order.different} labels differ; left out: {order.only_data} images only in '
        f'{args.data!r}, {order.only_coco} only in {args.json!r}.',
        file=report,
    )
    count = len(order.class_names)
    others = sum(a != b for a, b in zip(order.class_names, order.categories))
    verdict = f'are not in the order of ascending COCO id, {others} differ' if others else 'are in ascending COCO id'
    usual = order.class_names == list(COCO_CLASSES)
    remedy = 'as is assumed without --class-map' if usual else 'give the names with --class-map'
    print(f'The {count} columns {verdict}: {remedy}.', file=report)
