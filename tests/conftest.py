import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gkgnet_timm.class_names import VOC_CLASSES

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / 'tests' / 'support'

if 'PYTEST_XDIST_WORKER' in os.environ:  # workers with more threads than cores only wait for each other
    torch.set_num_threads(1)


def save_image(path, seed, size=(48, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def coco_folder(tmp_path):
    """A COCO data set: ids that are not contiguous, a crowd, an image without annotation, images out of order."""
    for split in ('train', 'val'):
        images = [dict(id=i, file_name=f'{i:03d}.png', width=40, height=48) for i in (9, 3, 5, 7)]
        for image in images:
            save_image(tmp_path / split / image['file_name'], image['id'])
        objects = [(3, 18, 0), (3, 18, 0), (3, 1, 1), (7, 44, 0), (9, 1, 0)]  # image, category, crowd
        annotations = [
            dict(id=i + 1, image_id=image, category_id=category, bbox=[0, 0, 9, 9], area=81, iscrowd=crowd)
            for i, (image, category, crowd) in enumerate(objects)
        ]
        categories = [dict(id=44, name='bottle'), dict(id=1, name='person'), dict(id=18, name='dog')]
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        path = tmp_path / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return tmp_path


@pytest.fixture
def voc_folder(tmp_path):
    """A VOC devkit of three images: dog and a difficult person; a person; nothing. The test list has the first two."""
    root = tmp_path / 'VOCdevkit' / 'VOC2007'
    lists = root / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    ids = ['000001', '000002', '000010']
    present = {'dog': {'000001': 1}, 'person': {'000001': 0, '000002': 1}}
    for i, image_id in enumerate(ids):
        save_image(root / 'JPEGImages' / f'{image_id}.jpg', i)
    for split, count in (('trainval', 3), ('test', 2)):
        (lists / f'{split}.txt').write_text('\n'.join(ids[:count]) + '\n')
        for name in VOC_CLASSES:
            lines = [f'{image_id} {present.get(name, {}).get(image_id, -1):2d}' for image_id in ids[:count]]
            (lists / f'{name}_{split}.txt').write_text('\n'.join(lines) + '\n')
    return tmp_path
