"""Data sets by name, for `timm.data.create_loader`."""

from pathlib import Path
from typing import Any, Tuple

import torch
from PIL import Image

from timm.data import ImageDataset, MultiLabelTarget

from .coco import CocoReader
from .demo import demo_root
from .voc import VocReader

__all__ = ['MultiLabelDataset', 'create_dataset', 'label_frequency']


class MultiLabelDataset(ImageDataset):
    """Images with multi-hot targets. An image that can't be read is an error that names it.

    timm's own puts the next image in its place, which falsifies an evaluation.
    """

    def __init__(self, reader: Any, **kwargs: Any):
        super().__init__('', reader=reader, target_transform=MultiLabelTarget(len(reader.class_names)), **kwargs)

    def __getitem__(self, index: int) -> Tuple[Any, torch.Tensor]:
        try:
            file, labels = self.reader[index]
            with file:
                image = Image.open(file).convert(self.input_img_mode)
        except OSError as error:  # also what PIL raises for images that it can't decode
            raise RuntimeError(f'Cannot read image {self.filename(index, absolute=True)!r}: {error}') from error
        return self.transform(image) if self.transform is not None else image, self.target_transform(labels)


def create_dataset(name: str, root: str, split: str, is_training: bool = False) -> MultiLabelDataset:
    """One split of a data set.

    Args:
        name: 'demo' (drawn on first use), 'coco' or 'voc'.
        root: Folder of the data set; not used by 'demo'.
        split: 'demo': train or val. 'coco': images in `{split}/`, annotations in `annotations/instances_{split}.json`.
            'voc': year and list, such as 2007/trainval.
        is_training: Take difficult objects of VOC as positive, else as negative.
    """
    if name == 'voc':
        return MultiLabelDataset(VocReader(root, split, difficult='positive' if is_training else 'negative'))
    if name not in ('coco', 'demo'):
        raise ValueError(f"Unknown data set {name!r}, expected 'demo', 'coco' or 'voc'.")
    folder = demo_root() if name == 'demo' else Path(root)
    return MultiLabelDataset(CocoReader(folder / 'annotations' / f'instances_{split}.json', folder / split))


def label_frequency(dataset: MultiLabelDataset) -> torch.Tensor:
    """Fraction of images with each class (L,). Its mean is the mAP of scores that ignore the image."""
    counts = torch.zeros(len(dataset.reader.class_names), dtype=torch.float64)
    for labels in dataset.reader.iter_targets():
        counts[labels] += 1
    return counts / len(dataset)
