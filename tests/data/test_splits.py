"""Splits as commands open them: which ones by default, and what is checked."""

import os
import pickle

import numpy as np
import pytest
from conftest import save_image

from gkgnet_timm.class_names import COCO_CLASSES
from gkgnet_timm.data import BadImageError, open_split
from gkgnet_timm.data.splits import pick_images


def test_demo_needs_nothing(small_demo, capsys):
    val, train = open_split('demo'), open_split('demo', part='train')
    assert (val.split, len(val), train.split, len(train)) == ('val', 11, 'train', 19)
    assert val.class_names == train.class_names and val.filename(0, absolute=True).startswith(str(small_demo))
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith('Warning: no image has')]
    assert [line.split(',')[0] for line in printed] == ['val: 11 images', 'train: 19 images']
    open_split('demo', verbose=False)
    assert not capsys.readouterr().out


@pytest.mark.parametrize('part, name', [('train', 'train2014'), ('val', 'val2014')])
def test_splits_of_coco(coco_folder, part, name):
    (coco_folder / part).rename(coco_folder / name)
    annotations = coco_folder / 'annotations'
    (annotations / f'instances_{part}.json').rename(annotations / f'instances_{name}.json')
    dataset = open_split('coco', coco_folder, part=part)
    assert dataset.split == name and len(dataset) == 4 and dataset.class_names == ['person', 'dog', 'bottle']
    dataset = open_split('coco', coco_folder, name, drop_unlabelled=True)
    assert dataset.split == name and len(dataset) == 3


@pytest.mark.parametrize('part, name, count', [('train', '2007/trainval', 3), ('val', '2007/test', 2)])
def test_splits_of_voc(voc_folder, part, name, count):
    dataset = open_split('voc', voc_folder, part=part, unknown='negative')
    assert dataset.split == name and len(dataset) == count and dataset.targets().min() == 0


@pytest.mark.parametrize('part, name', [('train', 'train.data'), ('val', 'val_test.data')])
def test_published_splits_and_their_images(tmp_path, part, name):
    records = [dict(file_name='a.png', objects=np.eye(80, dtype=np.int64)[3])]
    for file in ('train.data', 'val_test.data', 'other.data'):
        (tmp_path / file).write_bytes(pickle.dumps(records))
    for folder in (f'{part}2014', 'photos'):
        save_image(tmp_path / folder / 'a.png', 0)
    dataset = open_split('gkgnet', tmp_path, part=part)
    assert dataset.split == name and dataset.filename(0, absolute=True) == str(tmp_path / f'{part}2014' / 'a.png')
    assert dataset.class_names == list(COCO_CLASSES)
    dataset = open_split('gkgnet', tmp_path, part=part, images='photos')
    assert dataset.split == name and dataset.filename(0, absolute=True) == str(tmp_path / 'photos' / 'a.png')
    with pytest.raises(FileNotFoundError, match=f'{tmp_path}/a.png'):  # the usual folder is that of the usual split
        open_split('gkgnet', tmp_path, 'other.data', part=part)


def test_tables_and_their_classes(tmp_path):
    save_image(tmp_path / 'a.png', 0)
    for part, name in (('train', 'cow'), ('val', 'dog')):
        (tmp_path / f'{part}.csv').write_text(f'file,labels\na.png,{name}\n')
    assert open_split('csv', tmp_path, part='train').class_names == ['cow']
    dataset = open_split('csv', str(tmp_path), class_names=['cow', 'dog'])
    assert dataset.split == 'val.csv' and dataset.targets().tolist() == [[0, 1]]
    (tmp_path / 'names.txt').write_text('dog\ncow\n')
    assert open_split('csv', tmp_path, class_map=tmp_path / 'names.txt').targets().tolist() == [[1, 0]]


def test_what_is_missing_is_said():
    for name in ('coco', 'voc', 'gkgnet', 'csv', 'wds/x'):
        with pytest.raises(ValueError, match=f'^--dataset {name} needs --data-dir.$'):
            open_split(name, split='x')
    with pytest.raises(ValueError, match="^Unknown --dataset 'nope', expected demo, "):
        open_split('nope', split='x')
    for part, flag in (('train', '--train-split'), ('val', r'--split \(in training: --val-split\)')):
        for name in ('hfds/x', 'wds/x'):
            with pytest.raises(ValueError, match=f'^--dataset {name} needs {flag}.$'):
                open_split(name, '.', part=part)
    with pytest.raises(ValueError, match='--dataset hfds/x needs --split'):  # but no folder
        open_split('hfds/x')


def test_missing_and_unreadable_images(coco_folder, tmp_path):
    (coco_folder / 'val' / '005.png').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 4 images .*005.png'):
        open_split('coco', coco_folder, 'val')
    listed = tmp_path / 'bad_images.txt'
    for bad_images in (os.devnull, listed):
        dataset = open_split('coco', coco_folder, 'val', bad_images=bad_images)
        assert [bool(target.isnan().all()) for _, target in dataset] == [False, True, False, False]
    assert listed.read_text() == f'{coco_folder}/val/005.png\n'
    (coco_folder / 'train' / '005.png').write_bytes(b'no image')
    dataset = open_split('coco', coco_folder, 'train')  # the file exists, and is an error when it is read
    with pytest.raises(BadImageError, match='005.png'):
        dataset[1]


@pytest.mark.parametrize('part, count', [('train', 10), ('val', 7)])  # timm trains on whole batches
def test_streams(shards, part, count, capsys):
    dataset = open_split(
        'wds/x',
        str(shards),
        'x-{0..1}.tar|10',
        part=part,
        class_map=shards / 'classes.txt',
        target_key='names',
        input_key='png',
        batch_size=5,
        num_samples=7,
        seed=3,
    )
    assert capsys.readouterr().out == f'x-{{0..1}}.tar|10: a stream of about {count} images, 3 classes\n'
    assert dataset.split == 'x-{0..1}.tar|10' and dataset.class_names == ['cat', 'dog', 'cow']
    reader = dataset.reader
    assert (reader.is_training, reader.batch_size, reader.common_seed) == (part == 'train', 5, 3)
    assert (reader.input_key, reader.target_key) == ('png', 'names')


def test_streams_by_themselves(shards):
    """Without keys and sizes, those of timm."""
    dataset = open_split(
        'wds/x', str(shards), 'x-{0..1}.tar|10', num_classes=3, target_format='indices', target_key='x'
    )
    reader = dataset.reader
    assert (len(dataset), reader.batch_size, reader.common_seed) == (10, 1, 42)
    assert reader.input_key == 'jpg;png;webp' and dataset.class_names == ['class 0', 'class 1', 'class 2']
    with pytest.raises(ValueError, match='--on-bad-image skip does not apply to the stream'):
        open_split('wds/x', str(shards), 'x-{0..1}.tar|10', num_classes=3, bad_images=os.devnull)


@pytest.mark.parametrize(
    'name, options, flag',
    [
        *((name, dict(num_classes=2), '--num-classes') for name in ('csv', 'coco', 'voc', 'gkgnet', 'demo')),
        ('csv', dict(target_format='multihot'), '--target-format'),
        ('csv', dict(target_key='labels'), '--target-key'),
        ('coco', dict(input_key='jpg'), '--input-key'),
        ('voc', dict(num_samples=5), '--num-samples'),
        ('voc', dict(images='JPEGImages'), '--images'),
        ('demo', dict(group_column='patient'), '--group-column'),
        ('hfds/x', dict(num_samples=5), '--num-samples'),
        ('wds/x', dict(images='x'), '--images'),
        ('wds/x', dict(drop_unlabelled=True), '--drop-unlabelled'),
        ('wds/x', dict(unknown='positive'), '--unknown-labels'),
    ],
)
def test_options_that_a_data_set_has_no_use_for(name, options, flag, tmp_path):
    with pytest.raises(ValueError, match=f'^{flag}( .*)?: not used by --dataset {name}, got .*Leave it out'):
        open_split(name, tmp_path, 'some split', **options)


def test_number_of_classes_that_are_named(shards):
    options = dict(target_key='indices', target_format='indices', class_map=str(shards / 'classes.txt'), verbose=False)
    dataset = open_split('wds/x', shards, 'x-{0..1}.tar|10', num_classes=3, **options)
    assert dataset.class_names == ['cat', 'dog', 'cow']
    with pytest.raises(ValueError, match='--num-classes 4: .* names 3 classes'):
        open_split('wds/x', shards, 'x-{0..1}.tar|10', num_classes=4, **options)


def test_picked_images_have_rare_classes(tmp_path):
    """Two of 200 images have a class, every image has another: both of the two are picked, all are in order."""
    rows = [f'{i}.png,1,{int(i in (70, 150))},{int(i % 10 == 0)}' for i in range(200)]
    (tmp_path / 'all.csv').write_text('\n'.join(['image,often,rare,some', *rows]))
    dataset = open_split('csv', tmp_path, 'all.csv', bad_images=os.devnull, verbose=False)
    part = pick_images(dataset, 12)
    numbers = [int(name.partition('.')[0]) for name in part.filenames(absolute=False)]
    assert len(part) == 12 and numbers == sorted(numbers) and {70, 150} <= set(numbers)
    counts = (part.targets() > 0).sum(axis=0)
    assert counts[0] == 12 and counts[1] == 2 and counts[2] >= 4 and part.split == dataset.split
