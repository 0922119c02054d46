"""Reader of the PASCAL VOC devkit."""

import re
from pathlib import Path
from typing import List, Sequence, Union
from xml.etree import ElementTree

import numpy as np

from ...class_names import VOC_CLASSES
from .base import LabelReader

__all__ = ['VocReader']

_TARGETS = {'1': 1, '-1': 0, '0': -1}  # present, absent, difficult objects only


class VocReader(LabelReader):
    """Images of a split with the classes from the lists in `ImageSets/Main`.

    For a split without class lists, such as `dog_trainval.txt`, the classes come from the objects in `Annotations`. A
    class of which an image has difficult objects only is -1.

    Args:
        root: The `VOCdevkit` folder, or its parent.
        split: Year and list, such as '2007/trainval', or several joined by '+'.

    Raises:
        FileNotFoundError: If a list or an annotation file does not exist.
        ValueError: If the split, a list or an annotation file is malformed, or an image is in the split twice.
    """

    def __init__(self, root: Union[str, Path], split: str):
        root = Path(root)
        if (root / 'VOCdevkit').is_dir():
            root = root / 'VOCdevkit'
        files, targets = {}, []
        for part in split.split('+'):
            if not re.fullmatch(r'[^/\\]+/[^/\\]+', part):
                raise ValueError(f"VOC split {part!r} is not of the form YEAR/LIST, such as '2007/trainval'.")
            year, name = part.split('/')
            path = root / f'VOC{year}' / 'ImageSets' / 'Main' / f'{name}.txt'
            image_ids = _read_lines(path)
            for image_id in image_ids:
                if re.search(r'[\s/\\]', image_id):  # it becomes part of a path
                    raise ValueError(f'{str(path)!r}: line {image_id!r} is not an image id, such as 000005.')
                file = f'VOC{year}/JPEGImages/{image_id}.jpg'
                if file in files:
                    both = f'in {files[file]!r} and in {part!r}'
                    raise ValueError(f'VOC split {split!r}: image {file!r} is {both}. Give lists without overlap.')
                files[file] = part
            targets.append(_part_targets(path, image_ids))
        super().__init__(root, list(files), np.concatenate(targets), VOC_CLASSES, f'{root} {split}')


def _part_targets(split_list: Path, image_ids: Sequence[str]) -> np.ndarray:
    lists = [split_list.with_name(f'{class_name}_{split_list.name}') for class_name in VOC_CLASSES]
    missing = [path for path in lists if not path.is_file()]
    if len(missing) == len(lists):
        paths = [split_list.parents[2] / 'Annotations' / f'{image_id}.xml' for image_id in image_ids]
        return np.array([_read_xml(path) for path in paths], dtype=np.int8).reshape(-1, len(lists))
    if missing:
        raise FileNotFoundError(
            f'VOC list {str(missing[0])!r} does not exist, while lists of other classes do. Add it, or remove all '
            'class lists to take the labels from Annotations.'
        )
    return np.array([_read_class_list(path, image_ids) for path in lists], dtype=np.int8).T


def _read_class_list(path: Path, image_ids: Sequence[str]) -> List[int]:
    targets = dict.fromkeys(image_ids)
    for line in _read_lines(path):
        image_id, value = line.split() if len(line.split()) == 2 else ('', '')
        if value not in _TARGETS or image_id not in targets or targets[image_id] is not None:
            raise ValueError(f'{str(path)!r}: line {line!r} is not an image of the split, listed once, and 1, 0 or -1.')
        targets[image_id] = _TARGETS[value]
    for image_id, target in targets.items():
        if target is None:  # or a truncated list would pass for images without the class
            raise ValueError(f'{str(path)!r} has no line for image {image_id!r} of the split. Restore the list.')
    return list(targets.values())


class _WithoutDoctype(ElementTree.TreeBuilder):
    def doctype(self, *args: str) -> None:  # it could declare entities
        raise ValueError('it has a DOCTYPE')


def _read_xml(path: Path) -> List[int]:
    if not path.is_file():
        raise FileNotFoundError(
            f'VOC annotation file {str(path)!r} does not exist. Add it, or the class lists in ImageSets/Main.'
        )
    try:
        annotation = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_WithoutDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(f'{str(path)!r} is not a plain XML file ({error}). Restore it.') from error
    if annotation.tag != 'annotation':
        raise ValueError(f"{str(path)!r} starts with element {annotation.tag!r}, expected 'annotation'. Restore it.")
    targets = [0] * len(VOC_CLASSES)
    for number, item in enumerate(annotation.findall('object'), 1):
        name, difficult = (item.findtext(tag, default).strip() for tag, default in (('name', ''), ('difficult', '0')))
        if name not in VOC_CLASSES or difficult not in ('0', '1'):
            raise ValueError(
                f'{str(path)!r}: object {number} has name {name!r} and difficult {difficult!r}, expected one of the 20 '
                'VOC classes and 0 or 1. Correct it, or use COCO format for other classes.'
            )
        column = VOC_CLASSES.index(name)
        targets[column] = 1 if difficult == '0' or targets[column] == 1 else -1
    return targets


def _read_lines(path: Path) -> List[str]:
    if not path.is_file():
        raise FileNotFoundError(f'VOC list {str(path)!r} does not exist. Check the data folder and the split.')
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f'{str(path)!r} is not a text file in UTF-8. Restore the list.') from error
    return [line.strip() for line in lines if line.strip()]
