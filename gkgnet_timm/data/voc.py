"""Multi-label reader of the PASCAL VOC devkit."""

from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Tuple, Union

from timm.data.readers.reader import Reader

from ..class_names import VOC_CLASSES

__all__ = ['VocReader']

_PRESENT, _DIFFICULT, _ABSENT = '1', '0', '-1'


class VocReader(Reader):
    """Images of a split and the classes that the lists of `ImageSets/Main` give them.

    Args:
        root: The `VOCdevkit` folder, or the one it is in.
        split: Year and list, such as '2007/trainval'; several joined by '+'.
        difficult: Whether a class of which an image has only difficult objects is 'positive' or 'negative'.

    Raises:
        FileNotFoundError: If a list does not exist.
        ValueError: If the split or a list is malformed.
    """

    def __init__(self, root: Union[str, Path], split: str, difficult: str = 'positive'):
        super().__init__()
        if difficult not in ('positive', 'negative'):
            raise ValueError(f"difficult must be 'positive' or 'negative', got {difficult!r}.")
        self.root = Path(root)
        if (self.root / 'VOCdevkit').is_dir():
            self.root = self.root / 'VOCdevkit'
        positive = (_PRESENT, _DIFFICULT) if difficult == 'positive' else (_PRESENT,)
        self.class_names = list(VOC_CLASSES)
        self.class_to_idx = {name: i for i, name in enumerate(self.class_names)}
        self.samples: List[Tuple[Path, List[int]]] = []
        for part in split.split('+'):
            year, _, name = part.partition('/')
            if not year or not name:
                raise ValueError(f"VOC split {part!r} is not of the form YEAR/LIST, such as '2007/trainval'.")
            folder = self.root / f'VOC{year}'
            lists = folder / 'ImageSets' / 'Main'
            labels: Dict[str, List[int]] = {line: [] for line in _read_lines(lists / f'{name}.txt')}
            for index, class_name in enumerate(self.class_names):
                path = lists / f'{class_name}_{name}.txt'
                for line in _read_lines(path):
                    image_id, _, value = line.partition(' ')
                    value = value.strip()
                    if image_id not in labels or value not in (_PRESENT, _DIFFICULT, _ABSENT):
                        raise ValueError(f'{str(path)!r}: line {line!r} is not an image of the split and 1, 0 or -1.')
                    if value in positive:
                        labels[image_id].append(index)
            images = folder / 'JPEGImages'
            self.samples += [(images / f'{image_id}.jpg', indices) for image_id, indices in labels.items()]
        if not self.samples:
            raise ValueError(f'VOC split {split!r} in {str(self.root)!r} lists no images.')

    def __getitem__(self, index: int) -> Tuple[BinaryIO, List[int]]:
        path, labels = self.samples[index]
        return open(path, 'rb'), labels

    def __len__(self) -> int:
        return len(self.samples)

    def iter_targets(self) -> Iterator[List[int]]:
        """Class indices of every image."""
        return (labels for _, labels in self.samples)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = self.samples[index][0]
        return path.name if basename else str(path if absolute else path.relative_to(self.root))


def _read_lines(path: Path) -> List[str]:
    if not path.is_file():
        raise FileNotFoundError(f'VOC list {str(path)!r} does not exist.')
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]
