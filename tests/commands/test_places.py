"""Which data set flags mean, and where its files are found from another folder or after a move."""

import shutil

import pytest
import torch
import yaml
from conftest import save_image
from runs import TINY, check_one_line

from gkgnet_timm.commands.check_data import main as check_data
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.runtime import locate, moved

pytestmark = pytest.mark.usefixtures('no_curves')

MODEL = [flag for flag in TINY if flag not in ('-c', 'demo')] + ['--model', 'gkgnet_ti_224', '--epochs', '1']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of photos, the current folder beside it."""
    photos = tmp_path / 'photos'
    photos.mkdir()
    for i in range(12):
        save_image(photos / f'{i}.png', i)
    rows = [f'{i}.png,{("cat", "dog", "cat|dog")[i % 3]}\n' for i in range(12)]
    (photos / 'train.csv').write_text('file,labels\n' + ''.join(rows[:8]))
    (photos / 'val.csv').write_text('file,labels\n' + ''.join(rows[8:]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    'flags, dataset',
    [
        ('--data-dir photos --train-split train.csv', 'csv'),
        ('--data-dir photos --train-split TRAIN.TSV', 'csv'),
        ('--data-dir photos --val-split val.json', 'coco'),
        ('--data-dir photos --train-split train.data', 'gkgnet'),
        ('--data-dir photos --train-split train.data --dataset csv', 'csv'),
        ('', 'demo'),
    ],
)
def test_form_of_a_data_set(flags, dataset):
    assert parse_flags([*flags.split(), '--model', 'gkgnet_ti_224'])[0].dataset == dataset


@pytest.mark.parametrize(
    'flags, message',
    [
        ('train --data-dir photos', "--data-dir 'photos': of what form. Give --dataset coco, voc, gkgnet, csv"),
        ('train --train-split labels', "split 'labels': of what form"),
        ('train --train-split a.csv --val-split b.json', "split 'b.json': the splits are files for .* coco and csv"),
        ('train --dataset demo --data-dir photos', "--data-dir .*photos' is not used by --dataset demo"),
        ('train --dataset coco --data-dir photos --train-split train.csv', 'is a file for --dataset csv, not coco'),
        ('check-data --data-dir photos', "--data-dir 'photos': of what form"),
        ('validate --model gkgnet_576 --pretrained --data-dir photos', "--data-dir 'photos': of what form"),
        ('benchmark loading --data-dir photos', "--data-dir 'photos': of what form"),
    ],
)
def test_folder_of_unknown_form(flags, message, folder, capsys):
    check_one_line(flags.split(), message, capsys)


def test_check_data_tells_the_form(folder, capsys):
    check_data(['--data-dir', 'photos', '--split', 'train.csv', '-j', '0'])
    assert 'train.csv: 8 images' in capsys.readouterr().out


def test_evaluation_from_another_folder_and_after_a_move(folder, monkeypatch, capsys):
    # one split from the data folder, one from the current folder
    splits = ['--train-split', 'train.csv', '--val-split', 'photos/val.csv']
    train([*MODEL, '--data-dir', 'photos', *splits, '--output', 'out', '--experiment', 'run'])
    config = yaml.safe_load((folder / 'out' / 'run' / 'args.yaml').read_text())
    assert [config[f'{part}_split'] for part in ('train', 'val')] == [
        str(folder / 'photos' / f'{part}.csv') for part in ('train', 'val')
    ]
    other = folder / 'other'
    other.mkdir()
    monkeypatch.chdir(other)
    checkpoint = ['--checkpoint', '../out/run/last.pth.tar', '-j', '0', '--device', 'cpu']
    expected = validate(checkpoint)
    assert expected['images'] == 4 and 'warning' not in expected
    shutil.move(folder / 'photos', folder / 'pictures')
    check_one_line(['validate', *checkpoint], "photos/val.csv' does not exist.*another --data-dir", capsys)
    assert validate([*checkpoint, '--data-dir', '../pictures']) == expected
    for split in ('train.csv', '../pictures/train.csv'):
        result = validate([*checkpoint, '--data-dir', '../pictures', '--split', split])
        assert result['images'] == 8 and 'images of training' in result['warning']
    train(['--resume', '../out/run/last.pth.tar', '--data-dir', '../pictures', '--epochs', '2', '-j', '0'])


def test_paths(folder):
    assert locate('train.csv', 'photos') == locate('photos/train.csv', None) == str(folder / 'photos' / 'train.csv')
    assert locate('photos', 'photos') == str(folder / 'photos') and locate('none', 'photos') is None
    assert moved('/a/b/c.csv', '/a', '/new') == '/new/b/c.csv'
    assert moved('/ab/c.csv', '/a', '/new') == '/ab/c.csv'
    assert moved('/a/..b/c.csv', '/a', '/new') == '/new/..b/c.csv'
    assert moved('c.csv', '/a', '/new') == 'c.csv' and moved('/a/c.csv', '/a', None) == '/a/c.csv'


def test_a_split_of_coco_has_the_name_of_a_folder(coco_folder, tmp_path):
    flags = ['--dataset', 'coco', '--data-dir', str(coco_folder), '--train-split', 'train', '--val-split', 'val']
    train([*MODEL, *flags, '-b', '2', '--output', str(tmp_path), '--experiment', 'run'])
    checkpoint = ['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0', '--device', 'cpu']
    assert 'images of training' in validate([*checkpoint, '--split', 'train'])['warning']
    assert 'warning' not in validate([*checkpoint, '--split', 'val'])


def test_damaged_paths_of_a_checkpoint(folder, small_demo, capsys):
    train([*TINY, '--epochs', '1', '--output', 'out', '--experiment', 'run'])
    content = torch.load('out/run/last.pth.tar', weights_only=False)
    content['args'].update(data_dir=5, val_split='/a/b.csv')
    torch.save(content, 'out/damaged.pth.tar')
    check_one_line(['validate', '--checkpoint', 'out/damaged.pth.tar', '--data-dir', 'photos'], 'is damaged', capsys)


def test_a_resumed_run_needs_no_weights_to_start_from(small_demo, tmp_path):
    flags = [*TINY, '--epochs', '1', '--output', str(tmp_path)]
    train([*flags, '--experiment', 'first'])
    train([*flags, '--experiment', 'run', '--pretrained-path', str(tmp_path / 'first' / 'last.pth.tar')])
    shutil.rmtree(tmp_path / 'first')
    assert train(['--resume', str(tmp_path / 'run'), '--epochs', '2', '-j', '0'])['mAP'] > 0
