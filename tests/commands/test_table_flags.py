"""Flags of tables from training to evaluation: what the training split meant holds for all others."""

import csv
import shutil

import numpy as np
import pytest
import torch
from conftest import save_image
from runs import TINY, check_one_line, read_summary

from gkgnet_timm.commands.check_data import main as check_data
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data import open_split
from gkgnet_timm.evaluation.evaluate import evaluate_dataset, evaluate_scores
from gkgnet_timm.evaluation.scores_file import save_scores
from gkgnet_timm.inference.device import Process
from gkgnet_timm.training.build import create_datasets
from gkgnet_timm.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures('no_curves')

PARTS = ['--train-where', 'part=train', '--val-where', 'part=val']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A table of 1 and -1, and one of names, each with both splits; other validation tables."""
    folder = tmp_path_factory.mktemp('tables')
    rows = [['image', 'cat', 'dog', 'part']]
    names = [['', 'part', 'tags', 'path']]
    for i in range(14):
        save_image(folder / f'{i}.png', i)
        part, labels = 'train' if i < 8 else 'val', {'cat': i % 2, 'dog': i % 3 == 0}
        rows.append([f'{i}.png', *(1 if value else -1 for value in labels.values()), part])
        names.append([i, part, ' '.join(name for name, value in labels.items() if value), f'{i}.png'])
    for name, content in (('minus.csv', rows), ('names.csv', names)):
        with open(folder / name, 'w', newline='') as file:
            csv.writer(file).writerows(content)
    (folder / 'zeros.csv').write_text((folder / 'minus.csv').read_text().replace('12.png,-1', '12.png,0'))
    return folder


@pytest.fixture(scope='module')
def data(folder):
    return ['--dataset', 'csv', '--data-dir', str(folder)]


@pytest.fixture(scope='module')
def run(folder, data):
    argv = [*TINY, *data, '--epochs', '1', '--train-split', 'minus.csv', *PARTS]
    train([*argv, '--output', str(folder), '--experiment', 'run'])
    return folder / 'run'


def test_validation_reads_as_training_did(run, folder, capsys):
    checkpoint = ['--checkpoint', str(run / 'last.pth.tar'), '-j', '0', '--device', 'cpu']
    record = torch.load(run / 'last.pth.tar', weights_only=True)['args']['table']
    assert record['minus'] == 'absent' and record['unknown'] is None
    result = validate(checkpoint)
    printed = capsys.readouterr().out
    assert '6 of 14 rows have part=val.' in printed and '-1 means absent, as in the training split.' in printed
    assert result['mAP'] == float(read_summary(run)[0]['eval_mAP']) and 0 < result['chance'] < 100
    assert validate([*checkpoint, '--where', 'part=train'])['images'] == 8
    message = "zeros.csv': -1 means absent in the training split, but unknown in this one by its values, 1, 0, -1"
    columns = ['--label-columns', 'cat,dog']
    check_one_line(['validate', *checkpoint, '--split', 'zeros.csv', *columns], message, capsys)
    negative = validate([*checkpoint, '--unknown-labels', 'negative'])
    assert negative['mAP'] == result['mAP']
    ignored = ['validate', *checkpoint, '--unknown-labels', 'ignore']
    check_one_line(ignored, 'no label of any class is known to be absent', capsys)


def test_training_without_negatives_stops(folder, data, capsys):
    argv = ['train', *TINY, *data, '--train-split', 'minus.csv', *PARTS, '--output', str(folder), '--experiment', 'x']
    message = "minus.csv': no label of any class is known to be absent.*--unknown-labels negative"
    check_one_line([*argv, '--unknown-labels', 'ignore'], message, capsys)


@pytest.mark.parametrize('unknown, value', [(None, 0), ('negative', 0), ('positive', 1), ('ignore', -1)])
def test_unknown_labels_hold_in_evaluation_too(folder, unknown, value, capsys):
    config = TrainConfig(
        'csv',
        data_dir=str(folder),
        train_split='minus.csv',
        train_where='part=train',
        val_where='part=val',
        unknown_labels=unknown,
    )
    for dataset in create_datasets(config, Process(torch.device('cpu')), None):
        assert dataset.class_names == ['cat', 'dog'] and dataset.split == 'minus.csv'
        labels = np.array([[i % 2, i % 3 == 0] for i in (int(name[:-4]) for name in dataset.reader.files)])
        assert dataset.targets().tolist() == np.where(labels, 1, value).tolist()
    printed = capsys.readouterr().out
    assert "2 classes: 'cat', 'dog'\n" in printed and '8 of 14 rows have part=train.\n' in printed


def test_rows_of_evaluation_are_of_the_table_of_training(folder):
    """Also where that is the usual one, whatever stands in the usual one of evaluation."""
    shutil.copy(folder / 'zeros.csv', folder / 'train.csv')
    (folder / 'val.csv').write_text('file,cat,dog\n')
    config = TrainConfig('csv', data_dir=str(folder), train_where='part=train', val_where='part=val')
    train_set, val_set = create_datasets(config, Process(torch.device('cpu')), None)
    assert train_set.split == val_set.split == 'train.csv'
    assert not set(train_set.filenames()) & set(val_set.filenames())


@pytest.mark.parametrize('unknown, values', [(None, {-1, 0, 1}), ('ignore', {-1, 0, 1}), ('negative', {0, 1})])
def test_tables_with_known_negatives(folder, unknown, values):
    """Unknown labels stay so in evaluation, unless the flag says what they are."""
    options = dict(train_split='zeros.csv', val_split='zeros.csv', train_where='part=train', val_where='part=val')
    config = TrainConfig('csv', data_dir=str(folder), unknown_labels=unknown, **options)
    train_set, val_set = create_datasets(config, Process(torch.device('cpu')), None)
    assert set(np.unique(val_set.targets())) == values and train_set.targets().min() == min(values)


def test_check_data_says_what_was_understood(data, capsys):
    check_data(
        [
            *data,
            '-j',
            '0',
            '--split',
            'names.csv',
            '--where',
            'part=val',
            '--label-column',
            'tags',
            '--label-separator',
            ' ',
        ]
    )
    assert (
        capsys.readouterr().out
        == """\
names.csv: 6 images, 2 of them without a label, 0.83 labels an image; 2 classes of 2 to 3 images
Cells are separated by commas, files are in column 'path'.
6 of 14 rows have part=val.
Names are separated by ' '.
  cat       3  50.00 %
  dog       2  33.33 %
  6 images read, width 40 to 40, median 40; height 48 to 48, median 48

"""
    )
    flags = ['--split', 'minus.csv', '--label-columns', 'cat,dog', '--unknown-labels', 'ignore', '-j', '0']
    check_data([*data, *flags])
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith('; 16 labels unknown')
    assert any(line.startswith('Warning: ') and 'no label of any class' in line for line in others)


@pytest.mark.parametrize('flags', [['--label-separator', ''], ['--where', 'a=b'], ['--ignore-case']])
def test_flags_of_tables_are_for_tables(coco_folder, flags, capsys):
    argv = ['check-data', '--dataset', 'coco', '--data-dir', str(coco_folder), '--split', 'train', *flags]
    check_one_line(argv, f'{flags[0]}( .*)?: not used by --dataset coco', capsys)


def test_evaluation_without_negatives_stops(tmp_path, coco_folder):
    dataset = open_split('coco', coco_folder, 'val')
    dataset.reader.targets = np.abs(dataset.reader.targets) * 0 + 1
    with pytest.raises(ValueError, match="instances_val.json': no label of any class is known to be absent"):
        evaluate_dataset(torch.nn.Identity(), dataset)
    ones = np.ones((3, 2))
    save_scores(tmp_path / 'scores.npz', ones / 2, np.array([[1, -1]] * 3), ['a', 'b', 'c'], ['cat', 'dog'])
    with pytest.raises(ValueError, match="scores.npz': no label of any class"):
        evaluate_scores(tmp_path / 'scores.npz')
