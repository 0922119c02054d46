"""Multi-label reader of COCO-format annotations."""

import contextlib
import io
from pathlib import Path
from typing import BinaryIO, Iterator, List, Tuple, Union

from pycocotools.coco import COCO

from timm.data.readers.reader import Reader

__all__ = ['CocoReader']


class CocoReader(Reader):
    """Images and the categories of their annotations, crowds counted, in ascending image id.

    Classes are the categories in ascending category id. Images without annotations are kept, they have no label.

    Args:
        annotations: COCO json.
        images: Folder that the file names of the json are in.

    Raises:
        FileNotFoundError: If there is no such json or folder.
        ValueError: If the json is not in COCO format.
    """

    def __init__(self, annotations: Union[str, Path], images: Union[str, Path]):
        super().__init__()
        self.root = Path(images)
        for path, kind in ((Path(annotations), 'annotation file'), (self.root, 'image folder')):
            if not path.exists():
                raise FileNotFoundError(f'COCO {kind} {str(path)!r} does not exist.')
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
                coco = COCO(str(annotations))
            category_ids = sorted(coco.getCatIds())
            index = {category_id: i for i, category_id in enumerate(category_ids)}
            self.class_names = [coco.cats[category_id]['name'] for category_id in category_ids]
            self.samples: List[Tuple[str, List[int]]] = []
            for image_id in sorted(coco.getImgIds()):
                labels = {index[annotation['category_id']] for annotation in coco.imgToAnns[image_id]}
                self.samples.append((coco.imgs[image_id]['file_name'], sorted(labels)))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(
                f'{str(annotations)!r} is not a COCO annotation file with images, annotations and categories '
                f'({type(error).__name__}: {error}).'
            ) from error
        if not self.samples or not self.class_names:
            raise ValueError(f'{str(annotations)!r} lists no images or no categories.')
        self.class_to_idx = {name: i for i, name in enumerate(self.class_names)}

    def __getitem__(self, index: int) -> Tuple[BinaryIO, List[int]]:
        name, labels = self.samples[index]
        return open(self.root / name, 'rb'), labels

    def __len__(self) -> int:
        return len(self.samples)

    def iter_targets(self) -> Iterator[List[int]]:
        """Class indices of every image."""
        return (labels for _, labels in self.samples)

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.samples[index][0]
        return Path(name).name if basename else str(self.root / name) if absolute else name
