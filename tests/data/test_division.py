"""Division of a data set into parts: proportions, rare labels, groups, and the tables of the command split."""

import csv
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import check_one_line

from gkgnet_timm.commands.split import main as split
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.data.division import divide
from gkgnet_timm.data.readers.table import CsvReader
from gkgnet_timm.data.splits import hold_out, open_split
from gkgnet_timm.data.stratify import stratify

pytest.importorskip('iterstrat')


def random_targets(images, classes, share, seed=0):
    return (np.random.default_rng(seed).random((images, classes)) < share).astype(np.int8)


@pytest.mark.parametrize('fractions', [(0.8, 0.2), (0.7, 0.2, 0.1), (0.5, 0.5)])
def test_each_part_has_its_share_of_each_label(fractions):
    targets = random_targets(1000, 10, np.linspace(0.02, 0.5, 10))
    parts = stratify(targets, fractions)
    for part, share in enumerate(fractions):
        chosen = parts == part
        assert chosen.sum() == pytest.approx(1000 * share, abs=5)
        assert targets[chosen].sum(axis=0) == pytest.approx(targets.sum(axis=0) * share, abs=10)


def test_seed_decides():
    targets = random_targets(200, 5, 0.2)
    first, same, other = (stratify(targets, (0.8, 0.2), seed) for seed in (1, 1, 2))
    assert np.array_equal(first, same) and not np.array_equal(first, other)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(30, 60), st.integers(1, 40), st.sampled_from([(0.8, 0.2), (0.6, 0.3, 0.1)]))
def test_first_part_has_every_label_and_each_part_an_image(seed, images, classes, fractions):
    targets = random_targets(images, classes, 0.05, seed)
    parts = stratify(targets, fractions, seed)
    assert set(parts) == set(range(len(fractions)))
    assert ((targets[parts == 0].sum(axis=0) > 0) | (targets.sum(axis=0) == 0)).all()


@pytest.mark.parametrize('num_parts', [2, 3])
def test_rare_labels_are_in_every_part(num_parts):
    """Each of 20 classes has as many images as there are parts, beside one that all have."""
    targets = np.zeros((200, 21), dtype=np.int8)
    targets[np.arange(20 * num_parts), np.repeat(np.arange(20), num_parts)] = 1
    targets[:, 20] = 1
    fractions = (0.9, 0.1) if num_parts == 2 else (0.8, 0.1, 0.1)
    parts = stratify(targets, fractions)
    for part, share in enumerate(fractions):
        assert targets[parts == part].any(axis=0).all()
        assert (parts == part).sum() == pytest.approx(200 * share, abs=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 120), st.floats(0.05, 0.5))
def test_rare_labels_among_thousands_of_images_are_in_both_parts(seed, classes, share):
    random = np.random.default_rng(seed)
    targets = np.zeros((1500, classes), dtype=np.int8)
    for column in range(classes):
        count = random.integers(2, 7) if column % 3 else random.integers(20, 400)
        targets[random.choice(1500, count, replace=False), column] = 1
    parts = stratify(targets, (1 - share, share), seed)
    assert all(targets[parts == part].any(axis=0).all() for part in (0, 1))


def test_groups_stay_together():
    """Groups of 1 to 16 images: the shares are those of images, too."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(120), rng.choice([1, 2, 4, 16], 120))
    targets = random_targets(len(groups), 4, 0.2)
    parts = stratify(targets, (0.75, 0.25), groups=groups)
    assert all(len(set(parts[groups == group])) == 1 for group in range(120))
    assert (parts == 1).mean() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    'images, fractions, groups, message',
    [
        (5, (0.8, 0.3), None, 'add up to 1'),
        (5, (1.0, 0.0), None, 'above 0'),
        (1, (0.8, 0.2), None, '1 images cannot be divided into 2'),
        (5, (0.8, 0.2), ['a'] * 5, '1 groups cannot be divided into 2'),
    ],
)
def test_divisions_that_cannot_be(images, fractions, groups, message):
    with pytest.raises(ValueError, match=message):
        stratify(np.ones((images, 2)), fractions, groups=groups)


def read(path, images):
    reader = CsvReader(path, images)
    return dict(zip(reader.files, map(tuple, reader.targets.tolist()))), reader.class_names


def test_tables_have_the_rows_of_the_data_set(tmp_path, monkeypatch, capsys):
    """Labels that are unknown and absent, names of files with blanks and commas, three parts."""
    monkeypatch.chdir(tmp_path)
    rows = {f'sub/a, {i}.jpg': (i % 2, (0, 1, -1)[i % 3], int(i < 3)) for i in range(30)}
    with open('labels.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['file', 'cat', 'größe', 'rare'], *([name, *row] for name, row in rows.items())])
    paths = split(['labels.csv', '--val', '0.2', '--test', '0.1', '--seed', '3', '--output', 'out/parts'])
    assert paths == [Path('out/parts', name) for name in ('train.csv', 'val.csv', 'test.csv')]
    tables = [read(path, tmp_path) for path in paths]
    assert {name: row for table, _ in tables for name, row in table.items()} == rows
    assert [len(table) for table, _ in tables] == [21, 6, 3] and sum(len(table) for table, _ in tables) == 30
    assert all(names == ['cat', 'größe', 'rare'] for _, names in tables)
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert lines[lines.index(['train', 'val', 'test']) :][:5] == [
        ['train', 'val', 'test'],
        ['images', '21', '6', '3'],
        *([name, *(str(sum(row[i] > 0 for row in table.values())) for table, _ in tables)]
          for i, name in enumerate(('cat', 'größe', 'rare'))),
    ]  # fmt: skip
    assert ['rare', '1', '1', '1'] in lines and 'Warning' not in printed
    command = shlex.split(printed.splitlines()[-1].partition('gkgnet_timm train ')[2])
    config, _ = parse_flags(command)  # what is printed is what trains on them
    assert [config.train_split, config.val_split] == [str(path.absolute()) for path in paths[:2]]
    check_one_line(['split', 'labels.csv', '--output', 'out/parts'], "train.csv' exists already", capsys)


def test_labels_that_are_too_rare_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('t.csv').write_text('file,labels\n' + ''.join(f'{i}.jpg,{"lone" if i == 4 else "cat"}\n' for i in range(10)))
    train, _ = split(['t.csv'])
    assert (
        "Warning: 1 classes have too few images (or groups) of their own for every part: 'lone' (1)."
        in capsys.readouterr().out
    )
    assert '4.jpg' in read(train, tmp_path)[0]


@pytest.mark.parametrize('name', ['coco', 'voc', 'demo'])
def test_other_data_sets(name, request, tmp_path):
    folder = request.getfixturevalue(dict(demo='small_demo').get(name, f'{name}_folder'))
    flags = dict(coco=['train'], voc=['2007/trainval'], demo=['train'])[name]
    paths = split(
        [*flags, '--dataset', name, '--data-dir', str(folder), '--val', '0.4', '--output', str(tmp_path / 'o')]
    )
    whole = open_split(name, folder, flags[0], verbose=False).reader
    found = {}
    for path in paths:
        found.update(read(path, whole.root)[0])
        assert not CsvReader(path, whole.root, whole.class_names).missing_files()
    assert found == dict(zip(whole.files, map(tuple, whole.targets.tolist())))


def test_held_out_images_keep_groups_together(tmp_path):
    rows = ''.join(f'{i}.jpg,{i % 2},p{i // 4},{int(i % 3 == 0)}\n' for i in range(40))
    (tmp_path / 't.csv').write_text(f'file,cat,patient,dog\n{rows}')
    dataset = open_split('csv', tmp_path, 't.csv', group_column='patient', bad_images=tmp_path / 'bad', verbose=False)
    assert dataset.class_names == ['cat', 'dog']
    patients = [{int(name[:-4]) // 4 for name in part.reader.files} for part in hold_out(dataset, 0.2, 0)]
    assert [*map(len, patients)] == [8, 2] and not patients[0] & patients[1]
    config, _ = parse_flags(['--dataset', 'csv', '--data-dir', '.', '--group-column', 'patient'])
    assert config.group_column == 'patient'


def test_column_of_groups(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = ''.join(f'{i}.jpg,{i % 2},p{i // 4},{int(i % 3 == 0)}\n' for i in range(40))
    Path('t.csv').write_text(f'file,cat,patient,dog\n{rows}')
    train, val = split(['t.csv', '--group-column', 'patient', '--output', 'out'])
    tables = [read(path, tmp_path) for path in (train, val)]
    assert tables[0][1] == ['cat', 'dog']
    patients = [{int(name.partition('.')[0]) // 4 for name in table} for table, _ in tables]
    assert len(patients[0]) == 8 and len(patients[1]) == 2 and not patients[0] & patients[1]
    assert tables[0][0] | tables[1][0] == {f'{i}.jpg': (i % 2, int(i % 3 == 0)) for i in range(40)}
    check_one_line(['split', 't.csv', '--group-column', 'patent'], "no column 'patent'. .*'patient'", capsys)
    Path('u.csv').write_text(Path('t.csv').read_text().replace('p3', ''))
    check_one_line(['split', 'u.csv', '--group-column', 'patient'], "u.csv', line 14: no group", capsys)
    Path('v.csv').write_text('file,patient\na.jpg,x\n')
    check_one_line(['split', 'v.csv', '--group-column', 'patient'], 'no column of labels', capsys)
    for name in ('coco', 'demo'):
        argv = ['split', 'train', '--dataset', name, '--data-dir', '.', '--group-column', 'patient']
        check_one_line(argv, f'--group-column: not used by --dataset {name}, got .patient.', capsys)


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--val', '0'], '--val must be between 0 and 1, got 0.0'),
        (['--val', 'nan'], '--val must be between 0 and 1, got nan'),
        (['--test', '-1'], '--test must be between 0 and 1'),
        (['--val', '0.6', '--test', '0.4'], 'leave nothing to train on'),
        (['--val', '0.2', '--dataset', 'voc'], '--dataset voc needs --data-dir'),
    ],
)
def test_shares_that_cannot_be(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('t.csv').write_text('file,labels\na.jpg,x\nb.jpg,y\n')
    check_one_line(['split', 't.csv', *flags], message, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ['t.csv']


def test_streams_are_refused(shards):
    dataset = open_split(
        'wds/x', shards, 'x-{0..1}.tar|10', num_classes=3, target_key='indices', target_format='indices', verbose=False
    )
    with pytest.raises(ValueError, match='is of a data set of timm'):
        divide(dataset)


def test_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'iterstrat.ml_stratifiers', None)
    with pytest.raises(ValueError, match=r"pip install 'gkgnet-timm\[split\]'"):
        stratify(np.ones((5, 2)), (0.5, 0.5))
