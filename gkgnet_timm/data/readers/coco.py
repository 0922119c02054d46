"""Reader of annotations in COCO format."""

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Union

import numpy as np

from .base import LabelReader

__all__ = ['CocoReader']


class CocoReader(LabelReader):
    """Images in ascending image id, with the categories of their annotations, crowds included.

    Classes are the categories in ascending category id.

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
        from pycocotools.coco import COCO  # slow to import

        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress there
                coco = COCO(str(annotations))
            category_ids = sorted(coco.getCatIds())
            index = {category_id: i for i, category_id in enumerate(category_ids)}
            class_names = [coco.cats[category_id]['name'] for category_id in category_ids]
            image_ids = sorted(coco.getImgIds())
            if len(image_ids) < len(coco.dataset['images']):
                twice, _ = Counter(image['id'] for image in coco.dataset['images']).most_common(1)[0]
                raise ValueError(f'image id {twice} is listed twice')
            files = [str(coco.imgs[image_id]['file_name']) for image_id in image_ids]
            targets = np.zeros((len(image_ids), len(category_ids)), dtype=np.int8)
            areas = np.full(targets.shape, -1, dtype=np.float32)
            row = {image_id: i for i, image_id in enumerate(image_ids)}
            for annotation in coco.dataset['annotations']:
                if annotation['image_id'] not in row or annotation['category_id'] not in index:
                    raise ValueError(
                        f'annotation {annotation["id"]} has image_id {annotation["image_id"]} and category_id '
                        f'{annotation["category_id"]}, but one of them is not listed'
                    )
                cell = row[annotation['image_id']], index[annotation['category_id']]
                targets[cell] = 1
                area = annotation.get('area')
                if isinstance(area, (int, float)) and area > areas[cell]:
                    areas[cell] = area
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(
                f'{str(annotations)!r} is not a COCO annotation file with images, annotations and categories '
                f'({type(error).__name__}: {error}).'
            ) from error
        if drop_unlabelled:
            labelled = targets.any(axis=1)
            files = [name for name, keep in zip(files, labelled) if keep]
            targets, areas = targets[labelled], areas[labelled]
        super().__init__(images, files, targets, class_names, annotations)
        self.areas = np.where(areas < 0, np.float32('nan'), areas)
