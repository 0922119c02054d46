"""Base of the readers of labelled image files."""

import copy
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from timm.data.readers.reader import Reader

from ...class_names import check_names
from ...runtime import quoted
from .names import ImageFolder, list_folder

__all__ = ['LabelReader', 'first_names', 'take_columns']


def first_names(names: Sequence[str], count: int = 8) -> str:
    """Quote the first of several names, and count the others."""
    more = f' and {len(names) - count} more' if len(names) > count else ''
    return ', '.join(map(quoted, names[:count])) + more


def take_columns(array: np.ndarray, columns: Sequence[int], fill: float) -> np.ndarray:
    """Columns of an array (N, L) in a new order, -1 for a column of one value."""
    return np.append(array, np.full_like(array[:, :1], fill), axis=1)[:, columns]


class LabelReader(Reader):
    """Image files and the classes in them: the base of all readers, and a reader of labels that are at hand.

    Args:
        root: Folder that the file names start from. See `ImageFolder` for how files are found by them.
        files: N file names.
        targets: (N, L) int8: 1 for a class in the image, 0 for one that is not, -1 if unknown. In VOC, a class of which
            an image has difficult objects only is unknown.
        class_names: L names.
        source: Annotation file or split, for messages.
        keep: (N,) bool, images to keep (default: all).

    Attributes:
        notes: What was understood in a way that the user should know of, a sentence each.
        unlisted: Target of classes that the training split has and this one does not list.

    Raises:
        ValueError: If there are no images, a name is not that of a file inside the folder, or two are of the same file.
    """

    unlisted = 0

    def __init__(
        self,
        root: Union[str, Path],
        files: Sequence[str],
        targets: np.ndarray,
        class_names: Sequence[str],
        source: Union[str, Path],
        keep: Optional[np.ndarray] = None,
    ):
        super().__init__()
        self.class_names = check_names(class_names, source)
        if keep is not None:
            files, targets = [name for name, kept in zip(files, keep) if kept], targets[keep]
        if not len(files):
            raise ValueError(f'{str(source)!r} lists no images{"" if keep is None else " with a label"}.')
        self.root: Path = Path(root)
        self.targets: np.ndarray = targets
        self.source: str = str(source)
        self.notes: List[str] = []
        self.files: List[str]
        self.files, self._similar = self._find_files(files)

    def _find_files(self, names: Sequence[str]) -> Tuple[List[str], Dict[str, str]]:
        """Return the file of each name, and by their absolute paths what is similar to those that do not exist."""
        folder = ImageFolder(self.root)
        files: Dict[str, str] = {}
        similar = {}
        for name in names:
            try:
                file = folder.find(name)
                if file is None:
                    file = folder.place(name)
                    if other := folder.similar(file):
                        similar[str((self.root / file).absolute())] = other
            except ValueError as error:
                raise ValueError(f'{self.source!r}: {error}') from error
            if file in files:
                both = f'{quoted(files[file])} and {quoted(name)} are the same file'
                what = f'{quoted(name)} is listed twice' if files[file] == name else both
                raise ValueError(f'{self.source!r}: {what}. Put all labels of an image in one place.')
            files[file] = name
        if folder.extended:
            name, file = next(iter(folder.extended.items()))
            count = f'{len(folder.extended)} of {len(files)} names'
            self.notes.append(f'{count} have no extension, their files were found: {file!r} for {name!r}.')
        return list(files), similar

    def take_classes(self, class_names: Sequence[str], drop_empty: bool = False, ignore_case: bool = False) -> None:
        """Bring the classes into the order of others by name, those of the training split.

        A class that this split does not list is absent, or unknown if only what was verified is known.

        Args:
            class_names: Classes to have.
            drop_empty: Drop other classes if no image has them.
            ignore_case: Names that differ in case only are of one class.

        Raises:
            ValueError: If there are other classes.
        """
        if ignore_case:
            spelling = {name.casefold(): name for name in class_names}
            self.class_names = [spelling.get(name.casefold(), name) for name in self.class_names]
        if list(class_names) == self.class_names:
            return
        index, wanted = self.class_to_idx, set(class_names)
        others = [name for name in self.class_names if name not in wanted]
        if drop_empty:
            present = (self.targets > 0).any(axis=0)
            empty = [name for name in others if not present[index[name]]]
            others = [name for name in others if present[index[name]]]
            if empty:
                self.notes.append(
                    f'Left out, as no image has {"it" if len(empty) == 1 else "them"}: {first_names(empty)}.'
                )
        missing = [name for name in class_names if name not in index]
        if others:
            raise ValueError(
                f'{self.source!r} has classes that the training split (or checkpoint, or --class-map) does not know: '
                f'{first_names(others)}. '
                + (f'Only known there: {first_names(missing)}. ' if missing else '')
                + 'Correct the '
                'names, or train on all of them.'
            )
        if missing:
            state = 'unknown' if self.unlisted < 0 else 'absent'
            count = f'{len(missing)} of {len(class_names)} classes'
            self.notes.append(
                f'{count} are not listed here and count as {state} in all images: {first_names(missing)}.'
            )
        self._take_columns([index.get(name, -1) for name in class_names])
        self.class_names: List[str] = check_names(class_names, self.source)

    def _take_columns(self, columns: List[int]) -> None:
        self.targets = take_columns(self.targets, columns, self.unlisted)

    @property
    def class_to_idx(self) -> Dict[str, int]:
        return {name: i for i, name in enumerate(self.class_names)}

    def __getitem__(self, index: int) -> Tuple[BinaryIO, np.ndarray]:
        try:
            return open(self.root / self.files[index], 'rb'), self.targets[index]
        except FileNotFoundError as error:
            hint = self.hint(self._filename(index, absolute=True))
            raise FileNotFoundError(error.errno, f'{error.strerror}{hint}', error.filename) from error

    def __len__(self) -> int:
        return len(self.files)

    def iter_targets(self) -> Iterator[List[int]]:
        """Yield the indices of the classes in each image."""
        return (np.flatnonzero(target > 0).tolist() for target in self.targets)

    def subset(self, rows: Sequence[int]) -> 'LabelReader':
        """Return a reader of some of the images, in this order."""
        part = copy.copy(self)
        part.files = [self.files[row] for row in rows]
        for name in ('targets', 'areas', 'groups'):
            if hasattr(self, name):
                setattr(part, name, getattr(self, name)[rows])
        return part

    def missing_files(self) -> List[str]:
        """List the files that do not exist. Reads each folder once."""
        paths = [self.root / name for name in self.files]
        present = {folder: list_folder(folder)[0] for folder in {path.parent for path in paths}}
        return [str(path.absolute()) for path in paths if path.name not in present[path.parent]]

    def hint(self, path: str) -> str:
        """Name a file beside a missing one that it may be meant for, '' if there is none."""
        similar = self._similar.get(path)
        return f', but {similar!r} is there' if similar else ''

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.files[index]
        return Path(name).name if basename else str((self.root / name).absolute()) if absolute else name
