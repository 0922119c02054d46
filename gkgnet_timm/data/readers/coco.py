"""Reader of annotations in COCO format."""

import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple, Union

import numpy as np

from ...class_names import clean_name
from ...runtime import quoted
from ..coco_json import Record, file_names_of, read_coco, records_of
from .base import LabelReader, take_columns

__all__ = ['CocoReader']

_LARGEST_AREA = 1e12
_LISTS = {'images': 'image', 'categories': 'category'}
_VERIFIED = ('neg_category_ids', 'not_exhaustive_category_ids')


class _Index(dict):
    """Position of each id in a list. Text and numbers are joined: '007' and '7' are 7, if no other id is."""

    def __init__(self, ids: List[Any], what: str):
        super().__init__()
        self.by_text: Dict[str, int] = {}
        self.by_digits: Dict[str, Set[int]] = {}
        for position, value in enumerate(ids):
            text = str(value).strip()
            if text in self.by_text:
                before = ids[self.by_text[text]]
                other = '' if before == value else f', also as {quoted(before)}'
                raise ValueError(f'{what} id {quoted(value)} is listed twice{other}')
            self[value] = self.by_text[text] = position
            self.by_digits.setdefault(text.lstrip('0'), set()).add(position)

    def __getitem__(self, value: Any) -> int:
        if isinstance(value, bool):  # equal to 1 or 0
            raise KeyError(value)
        return super().__getitem__(value)

    def __missing__(self, value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, (str, int)) and text in self.by_text:
            return self.by_text[text]
        positions = self.by_digits.get(text.lstrip('0'), ()) if text.isdigit() else ()
        if len(positions) != 1:
            raise KeyError(value)
        return next(iter(positions))


def _ids(records: List[Record], what: str) -> List[Union[int, str]]:
    ids = []
    for number, record in enumerate(records, 1):
        value = record.get('id')
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError(f'{what} number {number} has id {quoted(value)}, expected a number or text')
        ids.append(value)
    return ids


def _ascending(ids: List[Union[int, str]]) -> List[int]:
    """Positions of ids in their order: that of numbers, if all of them are, also as text; else numbers first."""
    if all(re.fullmatch(r'\s*-?[0-9]{1,100}\s*', str(value)) for value in ids):
        return sorted(range(len(ids)), key=lambda i: (int(ids[i]), str(ids[i])))
    return sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))


def _cells(annotations: List[Record], rows: _Index, columns: _Index) -> List[Tuple[int, int, Optional[float]]]:
    """Row, column and area, if known, of each annotation."""
    cells = []
    for number, annotation in enumerate(annotations, 1):
        image_id, category_id = annotation.get('image_id'), annotation.get('category_id')
        try:
            cell = rows[image_id], columns[category_id]
        except (KeyError, TypeError):  # TypeError: a list, say
            raise ValueError(
                f'annotation number {number} has image_id {quoted(image_id)} and category_id {quoted(category_id)}, '
                'but one of them is not listed'
            ) from None
        area = annotation.get('area')
        cells.append((*cell, area if isinstance(area, (int, float)) and 0 <= area < _LARGEST_AREA else None))
    return cells


def _names(categories: List[Record]) -> List[str]:
    names = []
    for number, category in enumerate(categories, 1):
        name = category.get('name')
        if isinstance(name, bool) or not isinstance(name, (int, str)):
            raise ValueError(f'category number {number} has name {quoted(name)}, expected text')
        names.append(clean_name(str(name)))
    return names


def _classes(categories: List[Record], ids: List[Any], annotated: Set[int]) -> Tuple[Set[int], List[str]]:
    """Positions of the categories that are classes, and notes about roots that are none."""
    names, notes, kept = _names(categories), [], set()
    above = [clean_name(str(category.get('supercategory') or 'none')) for category in categories]
    groups: Dict[str, List[int]] = {}
    for position, name in enumerate(names):
        groups.setdefault(name, []).append(position)
    tops = {name for name in above if name in groups}
    for name, group in groups.items():
        roots = []
        if len(group) > 1:
            is_top = {i: name in tops and (above[i] == 'none' or above[i] not in groups) for i in group}
            roots = [i for i in group if i not in annotated and (is_top[i] or str(ids[i]) == '0')]
        rest = [i for i in group if i not in roots]
        if len(rest) != 1:
            raise ValueError(f'it names class {quoted(name)} twice, by ids {", ".join(quoted(ids[i]) for i in group)}')
        kept.update(rest)
        notes += [f'Category {name!r} of id {ids[i]!r}, the root of a class of this name, is left out.' for i in roots]
    return kept, notes


def _mark_absent(targets: np.ndarray, images: List[Record], columns: _Index) -> None:
    """Set the classes that were verified not to be in an image."""
    for row, (target, image) in enumerate(zip(targets, images)):
        for key in _VERIFIED:
            ids = image.get(key, [])
            try:
                found = [columns[value] for value in ids]
            except (KeyError, TypeError):
                raise ValueError(
                    f'image number {row + 1} has {key} {quoted(ids)}, expected ids of categories'
                ) from None
            if key == 'neg_category_ids':
                target[found] = 0


class CocoReader(LabelReader):
    """Images in ascending image id, with the categories of their annotations, crowds included.

    Classes are the categories in ascending category id. Of an annotation, only `image_id` and `category_id` are needed.
    Ids may be text in one list and numbers in the other. A category without annotations that has the name of another
    one and is its root, as some tools export it, is left out.

    If images have `neg_category_ids` or `not_exhaustive_category_ids`, as in LVIS, only what was verified is known:
    categories with annotations, and those of `neg_category_ids`, which are absent.

    Args:
        annotations: COCO json.
        images: Folder that the file names of the json start from.
        drop_unlabelled: Leave out images without annotations, which otherwise have no label.

    Attributes:
        areas: (N, L) float32, `area` of the largest object or crowd of a class in px^2 of the image file. nan where the
            image has no such object or the json gives no area.

    Raises:
        FileNotFoundError: If there is no such json or folder.
        ValueError: If the json is not in COCO format or lists no images.
    """

    def __init__(self, annotations: Union[str, Path], images: Union[str, Path], drop_unlabelled: bool = False):
        for kind, path in (('annotation file', Path(annotations)), ('image folder', Path(images))):
            if not path.exists():
                raise FileNotFoundError(f'COCO {kind} {str(path)!r} does not exist.')
        content = read_coco(annotations)
        try:
            if isinstance(content, dict) and content.get('images') and content.get('annotations') is None:
                raise ValueError(
                    "it has no 'annotations', so its images have no labels. Give the json with them, or label the "
                    f'images by python -m gkgnet_timm predict {annotations} in the folder of the images'
                )
            listed = {key: records_of(content, key) for key in ('images', 'annotations', 'categories')}
            image_ids, category_ids = (_ids(listed[key], what) for key, what in _LISTS.items())
            rows, columns = _Index(image_ids, 'image'), _Index(category_ids, 'category')
            cells = _cells(listed['annotations'], rows, columns)
            kept, notes = _classes(listed['categories'], category_ids, {column for _, column, _ in cells})
            files = file_names_of(listed['images'])
            is_partial = any(key in image for image in listed['images'] for key in _VERIFIED)
            targets = np.full((len(files), len(category_ids)), -1 if is_partial else 0, dtype=np.int8)
            if is_partial:
                self.unlisted = -1
                notes.append(
                    'Only verified classes are known, as in LVIS: annotated ones, and neg_category_ids as absent.'
                )
                _mark_absent(targets, listed['images'], columns)
            areas = np.full(targets.shape, np.nan, dtype=np.float32)
            for row, column, area in cells:
                if is_partial and targets[row, column] == 0:
                    raise ValueError(
                        f'image {quoted(image_ids[row])} has annotations of category {quoted(category_ids[column])}, '
                        'which is in its neg_category_ids'
                    )
                targets[row, column] = 1
                if area is not None and not areas[row, column] >= area:
                    areas[row, column] = area
        except ValueError as error:
            raise ValueError(f'COCO file {str(annotations)!r}: {error}.') from error
        names = _names(listed['categories'])
        kept = [i for i in _ascending(category_ids) if i in kept]
        order = _ascending(image_ids)
        targets, areas = targets[order][:, kept], areas[order][:, kept]
        labelled = (targets > 0).any(axis=1) if drop_unlabelled else None
        super().__init__(
            images, [files[i] for i in order], targets, [names[i] for i in kept], annotations, keep=labelled
        )
        self.areas: np.ndarray = areas if labelled is None else areas[labelled]
        self.notes.extend(notes)

    def _take_columns(self, columns: List[int]) -> None:
        super()._take_columns(columns)
        self.areas = take_columns(self.areas, columns, np.nan)
