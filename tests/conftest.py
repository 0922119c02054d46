import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from serving import Server

from gkgnet_timm.class_names import VOC_CLASSES
from gkgnet_timm.data import demo_root
from gkgnet_timm.data.readers.table import CsvReader

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / 'tests' / 'support'

settings.register_profile('same draws', derandomize=True)  # a failure is one for everybody
settings.load_profile('same draws')
if 'PYTEST_XDIST_WORKER' in os.environ:  # workers with more threads than cores only wait for each other
    torch.set_num_threads(1)


def save_image(path, seed, size=(48, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope='session')
def small_demo(tmp_path_factory):
    """Folder of a demo set of 19 training and 11 evaluation images, which the session uses from here on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('GKGNET_TIMM_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield demo_root({'train': 19, 'val': 11})


@pytest.fixture(scope='module')
def no_curves():
    """Runs leave an empty `curves.png`: to draw it takes half the time of a short run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('gkgnet_timm.training.run.draw_curves', lambda summary, path, *args: Path(path).touch())
        yield


@pytest.fixture(scope='session')
def forks():
    """For tests that fork processes: Windows cannot, and on macOS a fork may die in libraries of the system."""
    if sys.platform != 'linux':
        pytest.skip('forks processes')


@pytest.fixture(scope='session')
def server(forks, tmp_path_factory):
    """Forks processes that have imported the package."""
    server = Server(tmp_path_factory.mktemp('server'))
    yield server
    server.close()


@pytest.fixture
def learnable_demo(tmp_path, monkeypatch):
    """Folder of a demo set that is just large enough to learn from."""
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    return demo_root({'train': 400, 'val': 100})


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


@pytest.fixture
def shards(tmp_path):
    """Two shards of five images whose brightness says which labels they have."""
    pytest.importorskip('webdataset')
    for shard in range(2):
        with tarfile.open(tmp_path / f'x-{shard}.tar', 'w') as tar:
            for i in range(5 * shard, 5 * shard + 5):
                labels = [c for c in range(3) if i >> c & 1]
                meta = dict(
                    indices=labels,
                    multihot=np.isin(range(3), labels).tolist(),
                    names=[('cat', 'dog', 'cow')[c] for c in labels],
                )
                image = io.BytesIO()
                Image.new('RGB', (32, 32), (i * 20,) * 3).save(image, 'PNG')
                files = {'png': image.getvalue(), 'json': json.dumps(meta).encode()}
                for suffix, content in files.items():
                    info = tarfile.TarInfo(f'{i:03d}.{suffix}')
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    (tmp_path / 'classes.txt').write_text('cat\ndog\ncow\n')
    return tmp_path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where tables are, and images that need not be there."""
    return tmp_path_factory.mktemp('tables')


@pytest.fixture
def read(folder):
    """Reads the content of a table."""

    def read(content, class_names=None, **options):
        path = folder / 'table.csv'
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return CsvReader(path, folder, class_names, **options)

    return read
