"""Readers, the demo set, and what their errors say."""

import json
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from gkgnet_timm.class_names import VOC_CLASSES
from gkgnet_timm.data import CocoReader, MultiLabelDataset, VocReader, create_dataset, demo, label_frequency


def test_coco_labels(coco_folder):
    dataset = create_dataset('coco', str(coco_folder), 'train')
    assert dataset.reader.class_names == ['person', 'dog', 'bottle']  # by category id
    assert dataset.filenames() == ['003.png', '005.png', '007.png', '009.png']  # by image id
    targets = torch.stack([target for _, target in dataset])
    assert targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]  # the crowd counts, empty images stay
    assert label_frequency(dataset).tolist() == [0.5, 0.25, 0.25]
    assert dataset[0][0].size == (40, 48)


def test_voc_labels(voc_folder):
    person, dog = VOC_CLASSES.index('person'), VOC_CLASSES.index('dog')
    for root in (voc_folder, voc_folder / 'VOCdevkit'):
        reader = VocReader(root, '2007/trainval')
        assert [labels for _, labels in reader.samples] == [[dog, person], [person], []]
    reader = VocReader(voc_folder, '2007/trainval+2007/test', difficult='negative')
    assert [labels for _, labels in reader.samples] == [[dog], [person], []] * 2
    assert reader.filename(0) == 'VOC2007/JPEGImages/000001.jpg'
    assert reader.filename(0, basename=True) == '000001.jpg'


def test_difficult_is_positive_in_training_only(voc_folder):
    person = VOC_CLASSES.index('person')
    for is_training, expected in ((True, 1), (False, 0)):
        dataset = create_dataset('voc', str(voc_folder), '2007/trainval', is_training)
        assert dataset[0][1][person] == expected


def test_coco_errors(coco_folder):
    annotations = coco_folder / 'annotations' / 'instances_train.json'
    with pytest.raises(FileNotFoundError, match='instances_nope.json'):
        create_dataset('coco', str(coco_folder), 'nope')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        CocoReader(annotations, coco_folder / 'nowhere')
    content = json.loads(annotations.read_text())
    content['annotations'][0]['category_id'] = 99
    for broken in ('{', '[]', json.dumps(dict(images=[])), json.dumps(content)):
        annotations.write_text(broken)
        with pytest.raises(ValueError, match='instances_train.json'):
            create_dataset('coco', str(coco_folder), 'train')


def test_voc_errors(voc_folder):
    with pytest.raises(ValueError, match='YEAR/LIST'):
        VocReader(voc_folder, 'trainval')
    with pytest.raises(FileNotFoundError, match='VOC2012'):
        VocReader(voc_folder, '2012/trainval')
    path = voc_folder / 'VOCdevkit' / 'VOC2007' / 'ImageSets' / 'Main' / 'cat_test.txt'
    path.write_text('000001 2\n')
    with pytest.raises(ValueError, match='cat_test.txt'):
        VocReader(voc_folder, '2007/test')


def test_unreadable_image_is_named(coco_folder):
    dataset = create_dataset('coco', str(coco_folder), 'train')
    (coco_folder / 'train' / '005.png').write_bytes(b'no image')
    (coco_folder / 'train' / '007.png').unlink()
    for index, name in ((1, '005.png'), (2, '007.png')):
        with pytest.raises(RuntimeError, match=name):
            dataset[index]


def test_unknown_dataset():
    with pytest.raises(ValueError, match="'nope'"):
        create_dataset('nope', '', 'train')


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(demo, 'SPLITS', {'train': 24, 'val': 12})
    return tmp_path / 'cache'


def test_demo_is_drawn_once(small_demo):
    root = demo.demo_root()
    assert root == small_demo / 'demo-v1'
    written = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert demo.demo_root() == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == written
    assert [path.name for path in small_demo.iterdir()] == ['demo-v1']  # no draft is left
    train, val = (create_dataset('demo', '', split) for split in ('train', 'val'))
    assert isinstance(train, MultiLabelDataset) and len(train) == 24 and len(val) == 12
    assert train.reader.class_names == list(demo.SHAPES)


def test_demo_scenes():
    scenes = [demo.draw_scene(np.random.default_rng((0, i))) for i in range(60)]
    counts = [len(objects) for _, objects in scenes]
    assert min(counts) == 0 and max(counts) == demo.MAX_OBJECTS
    assert {name for _, objects in scenes for name, _, _ in objects} == set(demo.SHAPES)
    for _, objects in scenes:
        for _, (x, y, width, height), area in objects:
            assert 0 <= x and x + width <= demo.SIZE and 0 <= y and y + height <= demo.SIZE
            assert 0 < area <= width * height
    again, _ = demo.draw_scene(np.random.default_rng((0, 7)))
    assert np.array_equal(np.asarray(again), np.asarray(scenes[7][0]))


def test_demo_drawn_by_two_processes_at_once(small_demo):
    with ProcessPoolExecutor(2) as pool:
        roots = list(pool.map(_draw_small_demo, [str(small_demo)] * 2))
    assert roots[0] == roots[1] and [path.name for path in small_demo.iterdir()] == ['demo-v1']
    assert len(create_dataset('demo', '', 'train')) == 24


def _draw_small_demo(cache):
    import os

    os.environ['GKGNET_TIMM_CACHE'] = cache
    demo.SPLITS = {'train': 24, 'val': 12}
    return demo.demo_root()
