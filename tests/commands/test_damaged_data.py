"""Damaged annotations, tables, lists of names and configs: each is a line of error that names the file, or read."""

import json
import random
import time

import pytest
from conftest import save_image
from damage import damage_file, run

CLASSES = ['cat', 'dog', 'eel']
LABELS = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
FILES = [f'{i}.png' for i in range(3)]
PRESENT = [(i, j) for i, row in enumerate(LABELS) for j, label in enumerate(row) if label]
GOOD = {
    'labels.json': json.dumps(
        dict(
            images=[dict(id=i, file_name=name, width=8, height=8) for i, name in enumerate(FILES)],
            annotations=[dict(id=n, image_id=i, category_id=j, area=4.5) for n, (i, j) in enumerate(PRESENT)],
            categories=[dict(id=j, name=name, supercategory='animal') for j, name in enumerate(CLASSES)],
        )
    ),
    'lvis.json': json.dumps(
        dict(
            images=[dict(id=str(i), coco_url=f'http://x/{i}.png', neg_category_ids=[1 - i]) for i in range(2)],
            annotations=[dict(image_id=i, category_id=i) for i in range(2)],
            categories=[dict(id=j, name=name) for j, name in enumerate(CLASSES)],
        )
    ),
    'hot.csv': 'file,cat,dog,eel\n' + ''.join(f'{f},{",".join(map(str, row))}\n' for f, row in zip(FILES, LABELS)),
    'names.csv': 'file,labels\n0.png,cat|eel\n1.png,dog\n2.png,\n',
    'lists.csv': 'file,labels\n0.png,[1 0 1]\n1.png,[0 1 0]\n2.png,[0 0 0]\n',
    'long.csv': 'ImageID,LabelName,Confidence\n0,/m/1,1\n0,/m/2,0\n1,/m/2,1\n2,/m/3,1\n',
    'ids.csv': '/m/1,cat\n/m/2,dog\n/m/3,eel\n',
    'classes.txt': 'cat\ndog\neel\n',
    'config.yaml': """
dataset: csv
data_dir: photos
train_split: hot.csv
no_val: true
model: gkgnet_ti_224
model_kwargs: {depths: [1, 1, 1, 1], dims: [8, 16, 24, 32], k: 3}
img_size: 64
scale: [0.7, 1.0]
lr: 1e-3
opt: adamw
epochs: 2
loss: asl
bit_depth: 8
output: runs
""",
}
SPLITS = {'classes.txt': 'lists.csv', 'ids.csv': 'long.csv'}  # files that are read along with a table


def argv_of(name):
    if name == 'config.yaml':
        return ['train', '-c', name]
    split = SPLITS.get(name, name)
    argv = ['check-data', '--dataset', 'coco' if split.endswith('.json') else 'csv', '--data-dir', '.', '-j', '0']
    argv += ['--split', split]
    argv += ['--class-map', 'classes.txt'] if split == 'lists.csv' else []
    return argv + (['--label-names', 'ids.csv'] if split == 'long.csv' else [])


@pytest.mark.parametrize('name', GOOD)
def test_damaged(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('gkgnet_timm.commands.train.train', lambda config, resume: {})
    for i, file in enumerate(FILES):
        save_image(tmp_path / file, i, (8, 8))
    for file, text in GOOD.items():
        (tmp_path / file).write_text(text)
    assert run(argv_of(name)) == ([], 0)
    rng = random.Random(name)
    for number in range(60):
        damage_file(tmp_path / name, GOOD[name].encode(), rng)
        start = time.perf_counter()
        lines, status = run(argv_of(name))
        assert status in (0, 2) and len(lines) == (status == 2), (number, lines)
        assert time.perf_counter() - start < 5, number
        if status == 2:
            # a file that is named in it may not be there, and values of a config are those of flags
            said = (name, SPLITS.get(name, name), 'images cannot be read', '--' if name == 'config.yaml' else name)
            assert lines[0].startswith('error: ') and any(text in lines[0] for text in said), (number, lines)
