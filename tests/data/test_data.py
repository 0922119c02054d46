"""Data sets by name: what they hold, what is said about them, and what becomes of files that are not as they should."""

import io
import json
import os
import pickle
import re
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_image
from PIL import Image

from gkgnet_timm.class_names import COCO_CLASSES, VOC_CLASSES, read_class_map
from gkgnet_timm.data import (
    BadImageError,
    CocoReader,
    MultiLabelDataset,
    create_dataset,
    create_eval_loader,
    create_train_loader,
    create_train_transform,
    demo,
    start_epoch,
)
from gkgnet_timm.data.check import (
    check_files,
    check_splits,
    class_counts,
    class_table,
    decode_all,
    describe,
    describe_sizes,
)

CPU = torch.device('cpu')


def fails(message, make, *args, error=ValueError, **kwargs):
    """The error is of one line and contains the message."""
    with pytest.raises(error, match=re.escape(message)) as caught:
        make(*args, **kwargs)
    assert '\n' not in str(caught.value)


def targets_of(dataset):
    return torch.stack([target for _, target in dataset]).int().tolist()


def edit_coco(folder, edit, split='train'):
    path = folder / 'annotations' / f'instances_{split}.json'
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# COCO


def test_coco_labels(coco_folder):
    dataset = create_dataset('coco', str(coco_folder), 'train')
    assert dataset.class_names == ['person', 'dog', 'bottle']  # by category id
    assert dataset.filenames() == ['003.png', '005.png', '007.png', '009.png']  # by image id
    expected = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]  # the crowd counts, empty images stay
    assert targets_of(dataset) == expected and dataset.targets().tolist() == expected
    assert dataset[0][0].size == (40, 48) and dataset[0][1].dtype == torch.float32


def test_coco_without_unlabelled_images(coco_folder):
    dataset = create_dataset('coco', coco_folder, 'train', drop_unlabelled=True)
    assert dataset.filenames() == ['003.png', '007.png', '009.png']
    assert targets_of(dataset) == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize('absolute', [False, True])
def test_coco_by_path(coco_folder, absolute):
    """A json anywhere, with the folder of its images; paths start from the data folder."""
    (coco_folder / 'train').rename(coco_folder / 'photos')
    (coco_folder / 'annotations' / 'instances_train.json').rename(coco_folder / 'labels.json')
    root = coco_folder if absolute else Path('.')
    dataset = create_dataset('coco', coco_folder, str(root / 'labels.json'), images=str(root / 'photos'))
    assert targets_of(dataset) == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    fails('nowhere', create_dataset, 'coco', coco_folder, 'labels.json', images='nowhere', error=FileNotFoundError)
    fails('nope.json', create_dataset, 'coco', coco_folder, 'nope.json', error=FileNotFoundError)


def test_path_from_the_current_folder(coco_folder, monkeypatch):
    monkeypatch.chdir(coco_folder / 'annotations')
    dataset = create_dataset('coco', coco_folder / 'train', 'instances_val.json', images=str(coco_folder / 'val'))
    assert len(dataset) == 4


def test_coco_categories_of_any_kind(coco_folder):
    def rename(content):
        content['categories'] = [dict(id=44, name='Ölfass'), dict(id=1, name='tree frog'), dict(id=18, name='7')]

    edit_coco(coco_folder, rename)
    assert create_dataset('coco', coco_folder, 'train').class_names == ['tree frog', '7', 'Ölfass']


def test_coco_annotations_with_the_same_id_all_count(coco_folder):
    def number(content):
        for annotation in content['annotations']:
            annotation['id'] = 1

    expected = targets_of(create_dataset('coco', coco_folder, 'train'))
    edit_coco(coco_folder, number)
    assert targets_of(create_dataset('coco', coco_folder, 'train')) == expected


def test_coco_errors(coco_folder):
    annotations = coco_folder / 'annotations' / 'instances_train.json'
    fails('instances_nope.json', create_dataset, 'coco', coco_folder, 'nope', error=FileNotFoundError)
    fails('nowhere', CocoReader, annotations, coco_folder / 'nowhere', error=FileNotFoundError)
    whole = json.loads(annotations.read_text())
    broken = [b'{', b'[]', b'\xff\xfe', json.dumps(dict(images=[])).encode()]
    for content in broken:
        annotations.write_bytes(content)
        fails('instances_train.json', create_dataset, 'coco', coco_folder, 'train')
    cases = {
        'category_id 99': lambda content: content['annotations'][0].update(category_id=99),
        'image_id 4': lambda content: content['annotations'][0].update(image_id=4),
        'image id 9 is listed twice': lambda content: content['images'][1].update(id=9),
        "'dog' twice": lambda content: content['categories'][0].update(name='dog'),
        'lists no images': lambda content: content.update(images=[], annotations=[]),
        'no class': lambda content: content.update(categories=[], annotations=[]),
    }
    for message, edit in cases.items():
        annotations.write_text(json.dumps(whole))
        edit_coco(coco_folder, edit)
        fails(message, create_dataset, 'coco', coco_folder, 'train')


# class names


def test_splits_have_the_same_classes(coco_folder):
    names = create_dataset('coco', coco_folder, 'train').class_names
    assert create_dataset('coco', coco_folder, 'val', class_names=names).class_names == names
    edit_coco(coco_folder, lambda content: content['categories'][2].update(name='cat'), 'val')
    fails("know: 'cat'. Only known there: 'dog'.", create_dataset, 'coco', coco_folder, 'val', class_names=names)


def test_class_map(coco_folder, tmp_path):
    path = tmp_path / 'names.txt'
    path.write_text('\ufeffperson\n\ndog \nbottle\n\n', encoding='utf-8')
    assert create_dataset('coco', coco_folder, 'train', class_map=path).class_names == ['person', 'dog', 'bottle']
    path.write_text('dog\nperson\nbottle')
    dataset = create_dataset('coco', coco_folder, 'train', class_map=path)
    assert dataset.class_names == ['dog', 'person', 'bottle']
    assert targets_of(dataset) == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]]
    path.write_text('dog\ncow\nbottle')
    fails("know: 'person'. Only known there: 'cow'", create_dataset, 'coco', coco_folder, 'train', class_map=path)
    for content, message in ((b'a\nb\na', "'a' twice"), (b'\n', 'no class'), (b'\xe4', 'not UTF-8')):
        path.write_bytes(content)
        fails(message, read_class_map, path)
    fails('nope.txt', read_class_map, tmp_path / 'nope.txt', error=FileNotFoundError)


@pytest.mark.parametrize(
    'table, targets',
    [
        ('file,DOG,none,Cat\n0.png,1,0,0\n1.png,0,0,1\n', [[0, 1], [1, 0]]),
        ('file,labels\n0.png,DOG|cAT\n1.png,\n', [[1, 1], [0, 0]]),
        ('file,LabelName,Confidence\n0.png,DOG,1\n1.png,NONE,0\n', [[-1, 1], [-1, -1]]),
    ],
)
def test_empty_classes_are_dropped_in_any_case(table, targets, tmp_path):
    for i in range(2):
        save_image(tmp_path / f'{i}.png', i)
    (tmp_path / 'train.csv').write_text('file,cat,dog,none\n0.png,1,0,0\n1.png,0,1,0\n')
    (tmp_path / 'val.csv').write_text(table)
    options = dict(drop_empty_classes=True, ignore_case=True)
    train = create_dataset('csv', tmp_path, 'train.csv', **options)
    val = create_dataset('csv', tmp_path, 'val.csv', class_names=train.class_names, **options)
    assert train.class_names == val.class_names == ['cat', 'dog'] and targets_of(val) == targets
    with pytest.raises(ValueError, match="(does not know: 'DOG'|'DOG' is not one of the 2)"):
        create_dataset('csv', tmp_path, 'val.csv', class_names=train.class_names, drop_empty_classes=True)


@pytest.mark.parametrize(
    'table',
    [
        'file,labels\n0.png,"[""dog"", ""\\ud800x""]"\n1.png,[]\n',
        """file,labels\n0.png,"['dog', '\\udfff']"\n1.png,[]\n""",
    ],
)
def test_half_characters_in_lists_of_a_table(table, tmp_path):
    for i in range(2):
        save_image(tmp_path / f'{i}.png', i)
    (tmp_path / 'table.csv').write_text(table)
    with pytest.raises(ValueError, match=r"table.csv.* class name '\\ud\S+' with half a character"):
        create_dataset('csv', tmp_path, 'table.csv')


# tables and published files


@pytest.mark.parametrize('absolute', [False, True])
def test_csv_and_published_files_by_path(coco_folder, absolute):
    (coco_folder / 'table.csv').write_text('file,dog,cat\n003.png,1,\n005.png,0,1\n')
    records = [dict(file_name='003.png', objects=np.eye(80, dtype=np.int64)[7])]
    (coco_folder / 'some.data').write_bytes(pickle.dumps(records))
    root = str(coco_folder) + '/' if absolute else ''
    dataset = create_dataset('csv', coco_folder, f'{root}table.csv', images=f'{root}train')
    assert dataset.class_names == ['dog', 'cat'] and targets_of(dataset) == [[1, -1], [0, 1]]
    (coco_folder / 'names.txt').write_text('cat\ndog\n')
    ordered = create_dataset('csv', coco_folder, 'table.csv', images='train', class_map=coco_folder / 'names.txt')
    assert ordered.class_names == ['cat', 'dog'] and targets_of(ordered) == [[-1, 1], [1, 0]]
    dataset = create_dataset('gkgnet', coco_folder, f'{root}some.data', images=f'{root}train')
    assert dataset.class_names == list(COCO_CLASSES) and np.flatnonzero(dataset[0][1]).tolist() == [7]
    assert create_dataset('csv', coco_folder / 'train', f'{coco_folder}/table.csv')[0][0].size == (40, 48)
    fails('nope.csv', create_dataset, 'csv', coco_folder, 'nope.csv', error=FileNotFoundError)


def test_published_images_and_classes_without_labels(coco_folder):
    rows = np.zeros((3, 80), dtype=int)
    rows[0, [7, 3]] = rows[2, 3] = 1
    for name, used in (('train.data', rows), ('val.data', rows[::-1])):
        records = [dict(file_name=f'00{3 + 2 * i}.png', objects=row) for i, row in enumerate(used)]
        (coco_folder / name).write_bytes(pickle.dumps(records))
    options = dict(images='train', drop_empty_classes=True)
    train = create_dataset('gkgnet', coco_folder, 'train.data', drop_unlabelled=True, **options)
    assert train.filenames() == ['003.png', '007.png'] and train.class_names == [COCO_CLASSES[3], COCO_CLASSES[7]]
    assert train.targets().tolist() == [[1, 1], [1, 0]]
    val = create_dataset('gkgnet', coco_folder, 'val.data', class_names=train.class_names, **options)
    assert val.class_names == train.class_names and val.targets().tolist() == [[1, 0], [0, 0], [1, 1]]


def test_csv_classes_without_images(coco_folder):
    for name, rows in (('train', '003.png,1,0,0\n005.png,0,0,1\n'), ('val', '003.png,0,0,1\n')):
        (coco_folder / f'{name}.csv').write_text(f'file,dog,cow,cat\n{rows}')
    options = dict(images='train', drop_empty_classes=True)
    train = create_dataset('csv', coco_folder, 'train.csv', **options)
    assert train.class_names == ['dog', 'cat'] and train.targets().tolist() == [[1, 0], [0, 1]]
    val = create_dataset('csv', coco_folder, 'val.csv', class_names=train.class_names, **options)
    assert val.class_names == ['dog', 'cat'] and val.targets().tolist() == [[0, 1]]
    (coco_folder / 'names.txt').write_text('cat\ncow\ndog\n')
    train = create_dataset('csv', coco_folder, 'train.csv', class_map=coco_folder / 'names.txt', **options)
    assert train.class_names == ['cat', 'dog'] and train.targets().tolist() == [[0, 1], [1, 0]]
    (coco_folder / 'val.csv').write_text('file,dog,cow,cat\n003.png,0,1,1\n')
    fails("does not know: 'cow'", create_dataset, 'csv', coco_folder, 'val.csv', class_names=['dog', 'cat'], **options)


def test_streams_keep_their_classes():
    fails("'wds/x'", create_dataset, 'wds/x', '.', 'x', num_classes=3, drop_empty_classes=True)


def test_unknown_dataset():
    fails("'nope'", create_dataset, 'nope', '', 'train')


# unknown labels


@pytest.mark.parametrize('unknown, value', [('ignore', -1), ('positive', 1), ('negative', 0)])
def test_unknown_labels(voc_folder, unknown, value):
    person, dog = VOC_CLASSES.index('person'), VOC_CLASSES.index('dog')
    dataset = create_dataset('voc', voc_folder, '2007/trainval', unknown=unknown)
    for targets in (np.array(targets_of(dataset)), dataset.targets()):
        assert targets[:, [person, dog]].tolist() == [[value, 1], [1, 0], [0, 0]]
        assert np.delete(targets, [person, dog], axis=1).max() == 0
    counts, images = class_counts(dataset)
    assert counts[person] == (2 if value == 1 else 1) and counts.sum() == counts[person] + 1 and images == 3
    assert ('1 labels unknown' in describe(dataset, 'x')) == (unknown == 'ignore')


def test_unknown_labels_have_three_kinds(voc_folder):
    fails("ignore, positive, negative, not 'maybe'", create_dataset, 'voc', voc_folder, '2007/test', unknown='maybe')


# checks


def test_description(coco_folder):
    text = describe(create_dataset('coco', coco_folder, 'train'), 'train2014')
    assert text == 'train2014: 4 images, 1 of them without a label, 1.00 labels an image; 3 classes of 1 to 2 images'
    edit_coco(coco_folder, lambda content: content['categories'].append(dict(id=50, name='cat')))
    dataset = create_dataset('coco', coco_folder, 'train')
    assert describe(dataset, 'x').endswith('4 classes of 0 to 2 images, 1 without any')
    counts, images = class_counts(dataset)
    assert counts.tolist() == [2, 1, 1, 0] and images == 4
    assert class_table(dataset).splitlines()[2:] == ['  bottle       1  25.00 %', '  cat          0   0.00 %']


def test_missing_files_are_found_before_training(coco_folder):
    dataset = create_dataset('coco', coco_folder, 'train')
    assert dataset.reader.missing_files() == []
    check_files(dataset)
    names = ('005.png', '009.png')
    for name in names:
        (coco_folder / 'train' / name).unlink()
    assert dataset.reader.missing_files() == [str(coco_folder / 'train' / name) for name in names]
    fails(f"2 of 4 images of '{dataset.reader.source}'", check_files, dataset, error=FileNotFoundError)
    fails(str(coco_folder / 'train' / '005.png'), check_files, dataset, error=FileNotFoundError)


def test_splits_are_compared(coco_folder):
    def split(*names):
        (coco_folder / 'table.csv').write_text('file,labels\n' + ''.join(f'{name}.png,a\n' for name in names))
        return create_dataset('csv', coco_folder, 'table.csv', images='train')

    train = split('003', '005', '007')
    assert check_splits(train, split('009')) == 0
    assert check_splits(train, split('009', '005', '003')) == 2
    assert check_splits(train, split('005')) == 1
    fails('are the same 3 images', check_splits, train, split('007', '003', '005'))
    assert check_splits(*(create_dataset('coco', coco_folder, name) for name in ('train', 'val'))) == 0  # same names


def test_all_images_are_decoded(coco_folder):
    Image.new('RGB', (30, 20)).save(coco_folder / 'train' / '007.png')
    (coco_folder / 'train' / '005.png').write_bytes(b'no image')
    sizes, bad = decode_all(create_dataset('coco', coco_folder, 'train'), 0)
    assert sizes.tolist() == [[40, 48], [30, 20], [40, 48]]
    assert len(bad) == 1 and str(coco_folder / 'train' / '005.png') in bad[0]


def test_sizes_are_described():
    text = describe_sizes(np.array([[90, 8], [10, 30], [20, 7]]))
    assert text == '  3 images read, width 10 to 90, median 20; height 7 to 30, median 8'


# images


@pytest.fixture
def image_set(tmp_path):
    """A data set of an image with these bytes."""

    def create(content, name='image.bin', **kwargs):
        (tmp_path / name).write_bytes(content)
        (tmp_path / 'table.csv').write_text(f'file,a,b\n{name},1,0\n')
        return create_dataset('csv', tmp_path, 'table.csv', **kwargs)

    return create


def encoded(image, kind, **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def photo(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8))


def broken_png():
    """Its pixels have a wrong check sum and length."""
    content = bytearray(encoded(photo(), 'PNG'))
    start = content.index(b'IDAT')
    content[start - 2 : start] = b'\xff\xff'
    content[start + 50 : start + 60] = bytes(10)
    return bytes(content)


def bomb():
    """A PNG of a few bytes that says it has 40000 x 40000 pixels."""
    content = b'\x89PNG\r\n\x1a\n'
    for kind, data in ((b'IHDR', struct.pack('>IIBBBBB', 40000, 40000, 8, 2, 0, 0, 0)), (b'IDAT', b''), (b'IEND', b'')):
        content += struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return content


UNREADABLE = {
    'empty': b'',
    'text': b'no image',
    'truncated JPEG': encoded(photo(), 'JPEG')[:-600],
    'header of a JPEG': encoded(photo(), 'JPEG')[:100],
    'truncated PNG': encoded(photo(), 'PNG')[:3000],
    'broken PNG': broken_png(),
    'bomb': bomb(),
}


@pytest.mark.parametrize('kind', UNREADABLE)
def test_unreadable_images_are_named_or_dropped(image_set, kind, tmp_path):
    fails(f"'{tmp_path}/image.bin'", image_set(UNREADABLE[kind]).__getitem__, 0, error=BadImageError)
    listed = tmp_path / 'bad_images.txt'
    image, target = image_set(UNREADABLE[kind], bad_images=listed)[0]
    assert listed.read_text() == f'{tmp_path}/image.bin\n'
    assert image.mode == 'RGB' and image.getextrema() == ((0, 0),) * 3
    assert target.shape == (2,) and target.isnan().all()


def test_missing_image_is_unreadable(image_set, tmp_path):
    dataset = image_set(b'', bad_images=tmp_path / 'bad_images.txt')
    (tmp_path / 'image.bin').unlink()
    assert dataset[0][1].isnan().all()
    dataset.bad_images = None
    fails('image.bin', dataset.__getitem__, 0, error=BadImageError)


def test_unreadable_images_in_loaders(coco_folder):
    """Dropped in training, rows of nan in evaluation, listed by whoever came across them."""
    (coco_folder / 'train' / '005.png').write_bytes(b'no image')
    listed = coco_folder / 'bad_images.txt'
    dataset = create_dataset('coco', coco_folder, 'train', bad_images=listed)
    config = dict(mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, 32, 32))
    loader = create_train_loader(dataset, config, create_train_transform(32), 4, CPU, 1)
    start_epoch(loader, 42, 0, 0)
    ((images, target),) = loader
    assert images.shape == (3, 3, 32, 32) and sorted(target.tolist()) == [[0, 0, 1], [1, 0, 0], [1, 1, 0]]
    config |= dict(interpolation='bicubic', crop_pct=1.0, crop_mode='squash')
    ((images, target),) = create_eval_loader(dataset, config, 4, CPU, 1)
    assert images.shape == (4, 3, 32, 32) and target.isnan().all(dim=1).tolist() == [False, True, False, False]
    assert listed.read_text() == f'{coco_folder}/train/005.png\n' * 2


def test_error_of_a_label_is_not_one_of_the_image(image_set, tmp_path):
    """Nor may it be skipped as one."""
    dataset = image_set(encoded(photo(), 'PNG'), bad_images=tmp_path / 'bad_images.txt')

    def transform(labels):
        raise ValueError('labels')

    dataset.target_transform = transform
    fails('labels', dataset.__getitem__, 0)


GREY = Image.fromarray(np.arange(0, 240, dtype=np.uint8).reshape(12, 20))


@pytest.mark.parametrize(
    'content, exact',
    [
        (encoded(GREY, 'PNG'), True),
        (encoded(GREY.convert('P'), 'PNG'), True),
        (encoded(GREY.convert('P'), 'GIF'), True),
        (encoded(GREY.convert('LA'), 'PNG'), True),
        (encoded(GREY.convert('RGBA'), 'PNG'), True),
        (encoded(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), 'PNG'), True),
        (encoded(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), 'TIFF'), True),
        (encoded(GREY.convert('RGB').convert('CMYK'), 'TIFF'), True),
        (encoded(GREY.convert('RGB').convert('CMYK'), 'JPEG', quality=95), False),
        (encoded(GREY, 'JPEG', quality=95), False),
    ],
)
def test_colours_of_all_modes(image_set, content, exact):
    """A grey image is that grey, in whatever way it is stored."""
    image = image_set(content)[0][0]
    assert image.mode == 'RGB'
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(GREY)[..., None])
    assert difference.max() <= (0 if exact else 12)


def test_one_bit_images(image_set):
    image = image_set(encoded(GREY.point(lambda v: 255 * (v > 100)).convert('1'), 'PNG'))[0][0]
    assert np.array_equal(np.asarray(image)[..., 1], 255 * (np.asarray(GREY) > 100))


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_images_are_turned_upright(image_set, kind, orientation):
    """By their EXIF data, as in the published training."""
    upright = np.zeros((32, 48), dtype=np.uint8)
    upright[:16, :32] = [*[80] * 16, *[240] * 16]  # no symmetry
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    content = encoded(image, kind, exif=exif, **(dict(quality=100) if kind == 'JPEG' else {}))
    decoded = np.asarray(image_set(content)[0][0])[..., 0]
    assert decoded.shape == (32, 48) and np.abs(decoded.astype(int) - upright).max() <= 2


@pytest.mark.parametrize(
    'exif', [b'Exif\0\0', b'Exif\0\0II*\0\x08', b'Exif\0\0nonsense', b'Exif\0\0MM\0*' + b'\xff' * 40]
)
@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_damaged_exif_data_are_no_reason_to_drop_an_image(image_set, exif):
    plain, damaged = (image_set(encoded(photo(), 'JPEG', **kwargs))[0][0] for kwargs in ({}, dict(exif=exif)))
    assert np.array_equal(np.asarray(plain), np.asarray(damaged))


# streams


def stream(folder, key, target_format, **kwargs):
    return create_dataset(
        'wds/x', str(folder), 'x-{0..1}.tar|10', target_key=key, target_format=target_format, **kwargs
    )


@pytest.mark.parametrize('key, target_format', [('indices', 'indices'), ('names', 'indices'), ('multihot', 'multihot')])
def test_webdataset(shards, key, target_format):
    """Labels by index, by name and dense, with the names of their classes."""
    train, val = (
        stream(shards, key, target_format, class_map=shards / 'classes.txt', is_training=training, batch_size=5, seed=1)
        for training in (True, False)
    )
    assert train.class_names == ['cat', 'dog', 'cow']
    assert describe(train, 'x') == 'x: a stream of about 10 images, 3 classes'
    config = dict(mean=(0.0,) * 3, std=(1 / 255,) * 3, input_size=(3, 32, 32))
    loader = create_train_loader(train, config, create_train_transform(32, no_aug=True), 5, CPU, 1)
    epochs = []
    for epoch in (0, 1, 1):
        start_epoch(loader, 42, epoch, 0)
        batches = list(loader)
        assert [len(images) for images, _ in batches] == [5, 5]
        epochs.append([int(image.mean()) // 20 for images, _ in batches for image in images])
        for images, target in batches:
            expected = [[float(int(image.mean()) // 20 >> c & 1) for c in range(3)] for image in images]
            assert target.tolist() == expected
    assert sorted(epochs[0]) == list(range(10))
    assert epochs[1] == epochs[2] != epochs[0]

    config |= dict(interpolation='bicubic', crop_pct=1.0, crop_mode='squash')
    target = torch.cat([target for _, target in create_eval_loader(val, config, 4, CPU, 1)])
    assert target.tolist() == [[i >> c & 1 for c in range(3)] for i in range(10)]


def test_webdataset_without_names(shards):
    assert stream(shards, 'indices', 'indices', num_classes=3).class_names == ['class 0', 'class 1', 'class 2']
    fails('--num-classes', stream, shards, 'indices', 'indices')
    names = ['cat', 'cow', 'dog']
    fails(
        "the first that differs is 'dog'",
        stream,
        shards,
        'names',
        None,
        class_map=shards / 'classes.txt',
        class_names=names,
    )


def test_webdataset_labels_outside_of_the_class_map(shards):
    (shards / 'classes.txt').write_text('cat\ncow\n')
    for key, label in (('names', "'dog'"), ('indices', '2')):
        dataset = stream(shards, key, 'indices', class_map=shards / 'classes.txt')
        fails(f'Label {label} is not one of the 2 classes', list, dataset)


def test_streams_are_not_counted(shards):
    dataset = stream(shards, 'indices', 'indices', num_classes=3)
    fails('--class-stats', class_counts, dataset)
    check_files(dataset)
    assert check_splits(dataset, dataset) == 0


# the demo set


FEW = {'train': 24, 'val': 12}


def test_demo_is_drawn_once(tmp_path, monkeypatch):
    cache = tmp_path / 'cache'
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(cache))
    root = demo.demo_root(FEW)
    assert root == cache / 'demo-v1'
    written = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert demo.demo_root() == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == written
    assert [path.name for path in cache.iterdir()] == ['demo-v1']  # no draft is left
    train, val = (create_dataset('demo', '', split) for split in ('train', 'val'))
    assert isinstance(train, MultiLabelDataset) and len(train) == 24 and len(val) == 12
    assert train.reader.class_names == list(demo.SHAPES)


def test_demo_of_its_usual_size(monkeypatch, tmp_path):
    """Unless sizes are given. Scenes take long to draw, so they are blank."""
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path))
    monkeypatch.setattr(demo, 'draw_scene', lambda rng: (Image.new('RGB', (2, 2)), []))
    assert [len(create_dataset('demo', None, split)) for split in ('train', 'val')] == [1600, 400]


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


def set_cache(path):
    os.environ['GKGNET_TIMM_CACHE'] = path


def test_demo_drawn_by_two_processes_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    # a fork server would hand on the variables of its own start
    with ProcessPoolExecutor(2, initializer=set_cache, initargs=(str(tmp_path / 'cache'),)) as pool:
        roots = list(pool.map(demo.demo_root, [FEW] * 2))
    assert roots == [tmp_path / 'cache' / 'demo-v1'] * 2 and list((tmp_path / 'cache').iterdir()) == roots[:1]
    assert len(create_dataset('demo', '', 'train')) == 24


@pytest.mark.parametrize('mark', ['x', 'yes', 't'])
def test_a_class_named_like_a_mark_and_dropped_classes(mark, tmp_path):
    for i in range(2):
        save_image(tmp_path / f'{i}.png', i)
    (tmp_path / 'train.csv').write_text(f'file,labels\n0.png,{mark}|cat\n1.png,cat\n')
    (tmp_path / 'val.csv').write_text(f'file,labels\n0.png,{mark}\n1.png,\n')
    train = create_dataset('csv', tmp_path, 'train.csv', drop_empty_classes=True)
    val = create_dataset('csv', tmp_path, 'val.csv', class_names=train.class_names, drop_empty_classes=True)
    assert train.class_names == val.class_names == ['cat', mark] and targets_of(val) == [[0, 1], [0, 0]]
