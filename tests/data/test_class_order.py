"""Class order of published annotation files, recovered by comparison with COCO's."""

import json
import pickle
import re

import numpy as np
import pytest

from gkgnet_timm.__main__ import main
from gkgnet_timm.class_names import COCO_CLASSES, read_class_map
from gkgnet_timm.data.class_order import compare_class_order, recover_class_order
from gkgnet_timm.data.readers.gkgnet import PublishedReader

COUNT, NAMES = 300, list(COCO_CLASSES)
SCRAMBLED = np.random.default_rng(1).permutation(80)


def draw_labels(count=COUNT):
    rng = np.random.default_rng(0)
    return (rng.random((count, 80)) < rng.uniform(0.1, 0.5, 80)).astype(np.int8)


@pytest.fixture
def write(tmp_path):
    """Write `.data` and json of some images, with ids that are neither contiguous nor in the order of the file."""

    def write(data, coco, data_images=None, coco_images=None, names=NAMES):
        files = [f'COCO_val2014_{i:012d}.jpg' for i in range(max(len(data), len(coco)))]
        data_images = range(len(data)) if data_images is None else data_images
        coco_images = range(len(coco)) if coco_images is None else coco_images
        records = [dict(file_name=files[i], objects=data[i]) for i in data_images]
        (tmp_path / 'val.data').write_bytes(pickle.dumps(records))
        images = [dict(id=7 * i + 3, file_name=files[i], width=9, height=9) for i in coco_images]
        pairs = [(i, j) for i in coco_images for j in np.flatnonzero(coco[i]).tolist()]
        annotations = [
            dict(id=n, image_id=7 * i + 3, category_id=2 * j + 1, bbox=[0, 0, 9, 9], area=81, iscrowd=0)
            for n, (i, j) in enumerate(pairs, 1)
        ]
        categories = [dict(id=2 * j + 1, name=name) for j, name in enumerate(names)]
        content = dict(images=images[::-1], annotations=annotations, categories=categories[::-1])
        (tmp_path / 'coco.json').write_text(json.dumps(content))
        return str(tmp_path / 'val.data'), str(tmp_path / 'coco.json')

    return write


@pytest.mark.parametrize('order', [np.arange(80), SCRAMBLED, SCRAMBLED[:79]], ids=['same', 'scrambled', '79 columns'])
def test_order_is_recovered(write, order):
    labels = draw_labels()
    data, coco = write(labels[:, order], labels)
    result = compare_class_order(data, coco)
    assert recover_class_order(data, coco) == result.class_names == [NAMES[i] for i in order]
    assert result.categories == NAMES and result[2:] == (COUNT, 0, 0, 0)


def test_images_of_one_file_and_disagreements(write):
    """Columns in which a few images differ have their nearest category, and other images play no part."""
    labels = draw_labels()
    data = labels[:, SCRAMBLED].copy()
    rng = np.random.default_rng(2)
    flipped = 0
    for column in range(0, 80, 3):
        positive = rng.choice(np.flatnonzero(data[:, column]))
        data[positive, column] = 0
        flipped += 100 <= positive < 250
    data[250:] = 1 - data[250:]  # not in the json
    result = compare_class_order(*write(data, labels, range(100, COUNT), rng.permutation(250).tolist()))
    assert result.class_names == [NAMES[i] for i in SCRAMBLED]
    assert result[2:] == (150, 50, 100, flipped) and flipped > 5


def test_command(write, tmp_path, capsys):
    labels = draw_labels()
    files = write(labels[:, SCRAMBLED], labels)
    main(['class-order', *files])
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [NAMES[i] for i in SCRAMBLED]
    moved = (SCRAMBLED != np.arange(80)).sum()
    assert '300 images compared, 0 labels differ; left out: 0 images' in captured.err
    assert f'80 columns are not in the order of ascending COCO id, {moved} differ: give the names' in captured.err

    path = tmp_path / 'names.txt'
    main(['class-order', *files, '--output', str(path)])
    assert f'{moved} differ' in capsys.readouterr().out
    reader = PublishedReader(files[0], tmp_path, read_class_map(path))
    columns = [reader.class_names.index(name) for name in NAMES]
    assert np.array_equal(reader.targets[:, columns], labels)

    main(['class-order', *write(labels, labels)])
    assert '80 columns are in ascending COCO id: as is assumed without --class-map' in capsys.readouterr().err


def test_errors_are_one_line(write, tmp_path, capsys):
    labels = draw_labels()
    twins, noisy, both_empty = labels.copy(), labels.copy(), labels.copy()
    twins[:, 16] = twins[:, 15]
    noisy[:, 4] = np.random.default_rng(3).permutation(noisy[:, 4])
    both_empty[:, [20, 30]] = 0
    doubled = np.concatenate([labels[:, :79], labels[:, :1]], axis=1)

    def fails(message, *paths):
        with pytest.raises(SystemExit) as stopped:
            main(['class-order', *paths])
        assert stopped.value.code == 2
        captured = capsys.readouterr()
        assert not captured.out and captured.err.count('\n') == 1 and re.search(message, captured.err), captured.err

    fails(r"val.data': column 16, with .*'cat' \(1.000\), 'dog' \(1.000\); another column or cat", *write(twins, twins))
    fails(r"column 5, .*coco.json'.* \(0.*, .*; expected at least 0.9", *write(noisy, labels))
    fails('column 1, .*person.*another column', *write(doubled, labels))
    fails('column 21, with 0 images.*another column or category fits', *write(both_empty, both_empty))
    data, coco = write(labels, labels, range(100), range(200, COUNT))
    fails("share no image.*0000.jpg' and '.*0200.jpg'", data, coco)
    fails("nope.data' does not exist", str(tmp_path / 'nope.data'), coco)
    fails("nope.json' does not exist", data, str(tmp_path / 'nope.json'))
    fails("val.data' is not a COCO annotation file", data, data)
    fails("coco.json' is not a pickle of plain data", coco, coco)
    fails('nowhere', *write(labels, labels), '--output', str(tmp_path / 'nowhere' / 'names.txt'))


def test_category_without_images_is_found(write):
    """One empty column and one category without images belong together."""
    labels = draw_labels()
    labels[:, 5] = 0
    assert recover_class_order(*write(labels[:, SCRAMBLED], labels)) == [NAMES[i] for i in SCRAMBLED]


def test_classes_of_more_images_than_a_byte_counts(write):
    labels = draw_labels(2000)
    assert labels.sum(axis=0, dtype=int).max() > 255
    assert recover_class_order(*write(labels[:, SCRAMBLED], labels)) == [NAMES[i] for i in SCRAMBLED]
