"""Reader of the PASCAL VOC devkit."""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Union
from xml.etree import ElementTree

import numpy as np

from ...class_names import VOC_CLASSES, clean_name
from ...runtime import quoted, read_bytes
from .base import LabelReader, first_names
from .names import ImageFolder

__all__ = ['VocReader']

_TARGETS = {'1': 1, '-1': 0, '0': -1}  # present, absent, difficult objects only
_DIFFICULT = {'': False, '0': False, 'false': False, 'unspecified': False, '1': True, 'true': True}
_LARGEST = 1 << 26  # bytes of a list or an annotation file


class _Annotation(NamedTuple):
    """What an XML file says.

    Attributes:
        filename: Name of the image, '' if there is none.
        targets: 1 for each class, -1 if all of its objects are difficult.
        numbers: Number of the first object of each class.
    """

    filename: str
    targets: Dict[str, int]
    numbers: Dict[str, int]


class VocReader(LabelReader):
    """Images of a split with the classes from the lists in `ImageSets/Main`.

    For a split without class lists, such as `dog_trainval.txt`, the classes come from the objects in `Annotations`. A
    class of which an image has difficult objects only is -1. An image is `JPEGImages/{id}.jpg`; else the file that its
    XML names; else the one of that id with another extension.

    Args:
        root: The `VOCdevkit` folder, or its parent.
        split: Year and list, such as '2007/trainval', or several joined by '+'.
        class_names: Classes to read, unless there are lists of the 20 of VOC in their place (default: these 20, or if
            no XML file has one of them, all that they have).
        drop_unlabelled: Leave out images without objects.

    Raises:
        FileNotFoundError: If a list or an annotation file does not exist.
        ValueError: If the split, a list or an annotation file is malformed, or an image is in the split twice.
    """

    def __init__(
        self,
        root: Union[str, Path],
        split: str,
        class_names: Optional[Sequence[str]] = None,
        drop_unlabelled: bool = False,
    ):
        root = Path(root)
        if (root / 'VOCdevkit').is_dir():
            root = root / 'VOCdevkit'
        files, parts = {}, []
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
            parts.append(_Part(path, image_ids))
        if class_names is not None and any(
            part.count_lists(VOC_CLASSES) == len(VOC_CLASSES) and part.count_lists(class_names) < len(class_names)
            for part in parts
        ):
            class_names = VOC_CLASSES  # of another data set: the difference is an error that names both
        for part in parts:
            part.read(class_names or VOC_CLASSES)
        notes = []
        if class_names is None:
            found = {name for part in parts for annotation in part.annotations.values() for name in annotation.targets}
            own = found and not found & set(VOC_CLASSES) and not any(part.has_lists for part in parts)
            class_names = sorted(found) if own else VOC_CLASSES
            if own:
                notes = [f'The classes are those of the XML files: {first_names(class_names)}.']
        targets = np.concatenate([part.targets(class_names) for part in parts])
        names = [part.image(image_id) for part in parts for image_id in part.image_ids]
        labelled = targets.any(axis=1) if drop_unlabelled else None
        super().__init__(root, names, targets, class_names, f'{root} {split}', labelled)
        self.notes.extend(notes)


class _Part:
    """A list of images, and where their labels are."""

    def __init__(self, path: Path, image_ids: List[str]):
        self.path, self.image_ids, self.folder = path, image_ids, path.parents[2]
        self.images = ImageFolder(self.folder / 'JPEGImages')
        self.has_lists = False
        self.annotations: Dict[str, _Annotation] = {}

    def count_lists(self, class_names: Sequence[str]) -> int:
        """Number of classes that have a list."""
        return sum(self._list_of(name).is_file() for name in class_names)

    def read(self, class_names: Sequence[str]) -> None:
        """Read the XML files unless there are lists of some of these classes."""
        self.has_lists = self.count_lists(class_names) > 0
        if not self.has_lists:
            self.annotations = {image_id: self._read(image_id) for image_id in self.image_ids}

    def targets(self, class_names: Sequence[str]) -> np.ndarray:
        """Labels (N, L) of the images."""
        if self.has_lists:
            return np.array([self._read_list(name) for name in class_names], dtype=np.int8).T
        index = {name: i for i, name in enumerate(class_names)}
        targets = np.zeros((len(self.image_ids), len(index)), dtype=np.int8)
        for row, (image_id, annotation) in zip(targets, self.annotations.items()):
            for name, target in annotation.targets.items():
                if name not in index:
                    expected = f'one of the training split or --class-map: {first_names(class_names)}'
                    if set(class_names) == set(VOC_CLASSES):
                        expected = 'one of the 20 VOC classes'
                    raise ValueError(
                        f'{str(self._xml_of(image_id))!r}: object {annotation.numbers[name]} has name {name!r}, '
                        f'expected {expected}. Correct it, or list all classes in a --class-map FILE.'
                    )
                row[index[name]] = target
        return targets

    def image(self, image_id: str) -> str:
        """The file of an image, from the devkit."""
        file = self.images.find(f'{image_id}.jpg')
        if not file:
            annotation = self.annotations.get(image_id)
            if annotation is None and self._xml_of(image_id).is_file():
                annotation = self._read(image_id)
            try:
                file = annotation and annotation.filename and self.images.find(annotation.filename)
            except ValueError as error:  # a path on another machine
                file = self.images.find(image_id)
                if file is None:
                    raise ValueError(f'{str(self._xml_of(image_id))!r}: {error}') from error
        return f'{self.folder.name}/JPEGImages/{file or self.images.find(image_id) or f"{image_id}.jpg"}'

    def _xml_of(self, image_id: str) -> Path:
        return self.folder / 'Annotations' / f'{image_id}.xml'

    def _read(self, image_id: str) -> _Annotation:
        return _read_xml(self._xml_of(image_id))

    def _list_of(self, class_name: str) -> Path:
        return self.path.parent / f'{class_name}_{self.path.name}'  # a name may have a slash

    def _read_list(self, class_name: str) -> List[int]:
        path = self._list_of(class_name)
        if not path.is_file():
            raise FileNotFoundError(
                f'VOC list {str(path)!r} does not exist, while lists of other classes do. Add it, or remove all class '
                'lists to take the labels from Annotations.'
            )
        targets = dict.fromkeys(self.image_ids)
        for line in _read_lines(path):
            image_id, value = line.split() if len(line.split()) == 2 else ('', '')
            if value not in _TARGETS or image_id not in targets or targets[image_id] is not None:
                raise ValueError(
                    f'{str(path)!r}: line {line!r} is not an image of the split, listed once, and 1, 0 or -1.'
                )
            targets[image_id] = _TARGETS[value]
        for image_id, target in targets.items():
            if target is None:  # or a truncated list would pass for images without the class
                raise ValueError(f'{str(path)!r} has no line for image {image_id!r} of the split. Restore the list.')
        return list(targets.values())


class _WithoutDoctype(ElementTree.TreeBuilder):
    def doctype(self, *args: str) -> None:  # it could declare entities
        raise ValueError('it has a DOCTYPE')


def _read_xml(path: Path) -> _Annotation:
    if not path.is_file():
        raise FileNotFoundError(
            f'VOC annotation file {str(path)!r} does not exist. Add it, or the class lists in ImageSets/Main.'
        )
    data = read_bytes(path, _LARGEST)
    try:
        annotation = ElementTree.fromstring(data, ElementTree.XMLParser(target=_WithoutDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: unknown encoding
        raise ValueError(f'{str(path)!r} is not a plain XML file ({error}). Restore it.') from error
    if annotation.tag != 'annotation':
        raise ValueError(f"{str(path)!r} starts with element {annotation.tag!r}, expected 'annotation'. Restore it.")
    targets: Dict[str, int] = {}
    numbers: Dict[str, int] = {}
    for number, item in enumerate(annotation.findall('object'), 1):
        name, difficult = (clean_name(item.findtext(tag, '')) for tag in ('name', 'difficult'))
        if not name or difficult.lower() not in _DIFFICULT:
            raise ValueError(
                f'{str(path)!r}: object {number} has name {quoted(name)} and difficult {quoted(difficult)}, expected a '
                'class and 0 or 1. Correct it.'
            )
        numbers.setdefault(name, number)
        if targets.get(name) != 1:
            targets[name] = -1 if _DIFFICULT[difficult.lower()] else 1
    return _Annotation(annotation.findtext('filename', '').strip(), targets, numbers)


def _read_lines(path: Path) -> List[str]:
    if not path.is_file():
        raise FileNotFoundError(f'VOC list {str(path)!r} does not exist. Check the data folder and the split.')
    try:
        lines = read_bytes(path, _LARGEST).decode('utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f'{str(path)!r} is not a text file in UTF-8. Restore the list.') from error
    return [line.strip() for line in lines if line.strip()]
