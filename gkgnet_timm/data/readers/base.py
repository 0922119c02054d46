"""Base of the readers of labelled image files."""

import os
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Sequence, Set, Tuple, Union

import numpy as np

from timm.data.readers.reader import Reader

from ...class_names import check_names

__all__ = ['LabelReader']


class LabelReader(Reader):
    """Image files and the classes in them.

    Args:
        root: Folder that the file names start from.
        files: N file names.
        targets: (N, L) int8: 1 for a class in the image, 0 for one that is not, -1 if unknown. In VOC, a class of which
            an image has difficult objects only is unknown.
        class_names: L names.
        source: Annotation file or split, for messages.

    Attributes:
        notes: How the annotations were understood, a sentence each.

    Raises:
        ValueError: If there are no images.
    """

    def __init__(
        self,
        root: Union[str, Path],
        files: Sequence[str],
        targets: np.ndarray,
        class_names: Sequence[str],
        source: Union[str, Path],
    ):
        super().__init__()
        self.class_names = check_names(class_names, source)
        if not len(files):
            raise ValueError(f'{str(source)!r} lists no images.')
        self.root = Path(root)
        self.files = list(files)
        self.targets = targets
        self.source = str(source)
        self.notes: List[str] = []

    @property
    def class_to_idx(self) -> Dict[str, int]:
        return {name: i for i, name in enumerate(self.class_names)}

    def __getitem__(self, index: int) -> Tuple[BinaryIO, np.ndarray]:
        return open(self.root / self.files[index], 'rb'), self.targets[index]

    def __len__(self) -> int:
        return len(self.files)

    def iter_targets(self) -> Iterator[List[int]]:
        """Yield the indices of the classes in each image."""
        return (np.flatnonzero(target > 0).tolist() for target in self.targets)

    def missing_files(self) -> List[str]:
        """List the files that do not exist. Reads each folder once."""
        paths = [self.root / name for name in self.files]
        present: Dict[Path, Set[str]] = {}
        for folder in {path.parent for path in paths}:
            present[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        return [str(path.absolute()) for path in paths if path.name not in present[path.parent]]

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.files[index]
        return Path(name).name if basename else str((self.root / name).absolute()) if absolute else name
