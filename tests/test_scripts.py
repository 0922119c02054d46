"""Training, validation and benchmark as a user calls them."""

import csv
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import timm
from timm.loss import AsymmetricLossMultiLabel, BinaryCrossEntropy

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.data import demo
from gkgnet_timm.loss import GKGNetLoss
from gkgnet_timm.train import main as train
from gkgnet_timm.validate import main as validate

ROOT = Path(__file__).parent.parent
TINY = ['--img-size', '32', '-b', '8', '--epochs', '2', '-j', '0', '--log-interval', '1', '--device', 'cpu']


@pytest.fixture(autouse=True)
def small_demo(tmp_path, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(demo, 'SPLITS', {'train': 16, 'val': 11})


def test_train_then_validate_reproduces_the_metric(tmp_path, capsys):
    last = train([*TINY, '--output', str(tmp_path), '--experiment', 'run', '--lr', '1e-4'])
    printed = capsys.readouterr().out
    assert 'chance' in printed and 'left' in printed and 'validate.py --checkpoint' in printed
    run = tmp_path / 'run'
    rows = list(csv.DictReader((run / 'summary.csv').open()))
    assert [row['epoch'] for row in rows] == ['0', '1']
    assert float(rows[-1]['eval_map']) == last['map']
    args = yaml.safe_load((run / 'args.yaml').read_text())
    assert args['model'] == 'gkgnet_ti_224' and args['class_names'] == list(demo.SHAPES)

    result = validate(['--checkpoint', str(run / 'last.pth.tar'), '-j', '0'])
    for name, value in last.items():
        assert result[name] == value, name
    best = validate(
        ['--checkpoint', str(run / 'model_best.pth.tar'), '-j', '0', '--results-file', f'{tmp_path}/r.json']
    )
    assert best['map'] == max(float(row['eval_map']) for row in rows)
    assert json.loads((tmp_path / 'r.json').read_text()) == best


@pytest.mark.parametrize('dataset, split', [('coco', 'train'), ('voc', '2007/trainval')])
def test_train_on_other_data_sets(dataset, split, tmp_path, request):
    folder = request.getfixturevalue(f'{dataset}_folder')
    flags = ['--dataset', dataset, '--data-dir', str(folder), '--train-split', split, '-b', '2', '--amp']
    if dataset == 'coco':
        flags += ['--val-split', 'val', '--model-kwargs', 'k=5', 'label_k=3']
    metrics = train([*TINY, *flags, '--output', str(tmp_path / 'out'), '--experiment', 'run'])
    result = validate(['--checkpoint', str(tmp_path / 'out' / 'run' / 'last.pth.tar'), '-j', '0'])
    assert result['map'] == metrics['map'] and result['split'] == ('val' if dataset == 'coco' else '2007/test')


def test_train_a_timm_model(tmp_path):
    metrics = train([*TINY, '--model', 'resnet10t', '--epochs', '1', '--output', str(tmp_path)])
    assert 0 <= metrics['map'] <= 100


def test_errors_are_one_line(tmp_path, capsys, coco_folder):
    train([*TINY, '--epochs', '1', '--output', str(tmp_path), '--experiment', 'run'])
    checkpoint = str(tmp_path / 'run' / 'last.pth.tar')
    other_data = ['--dataset', 'coco', '--data-dir', str(coco_folder), '--split', 'val']
    cases = [
        (['train', *TINY, '--model', 'gkgnet_577'], "'gkgnet_577'.*gkgnet_576"),
        (['train', '--dataset', 'coco'], '--data-dir'),
        (['train', '--dataset', 'imagenet', '--data-dir', '.'], "'imagenet'"),
        (['train', '--dataset', 'coco', '--data-dir', str(tmp_path / 'nowhere')], 'instances_train2014.json'),
        (['train', *TINY, '--img-size', '33'], '33.*multiple of 32'),
        (['train', *TINY, '-b', '100'], 'do not fill'),
        (['train', *TINY, '--amp', '--amp-dtype', 'float8'], "'float8'"),
        (['validate'], '--checkpoint'),
        (['validate', '--checkpoint', 'nope.pth.tar'], 'nope.pth.tar'),
        (['validate', '--checkpoint', checkpoint, *other_data], 'knows 8 classes'),
        (['benchmark', '--models', 'resnet18'], "'resnet18'"),
    ]
    for argv, message in cases:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command(argv)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and re.search(message, error), (argv, error)


def test_broken_image_stops_training_and_is_named(tmp_path, coco_folder):
    (coco_folder / 'train' / '005.png').write_bytes(b'no image')
    flags = ['--dataset', 'coco', '--data-dir', str(coco_folder), '--train-split', 'train', '--val-split', 'val']
    with pytest.raises(RuntimeError, match='005.png'):
        train([*TINY, *flags, '-b', '4', '--output', str(tmp_path)])


def test_loss_agrees_with_timm():
    """The published test vector of the recipe, and timm's losses with the same constants."""
    target = torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0]])
    logits = torch.tensor([[2, -1, 0.5, -3], [-2, 3, -0.5, 0]], requires_grad=True)
    loss = GKGNetLoss()
    bce, asymmetric = loss.terms(logits, target)
    assert bce.item() == pytest.approx(2.1527970, abs=1e-6)
    assert asymmetric.item() == pytest.approx(7.806499, abs=1e-5)
    loss(logits, target).backward()
    expected = torch.tensor([[-0.6056, 0.2512, 2.3050, -0.0263], [0.0175, -0.2108, -3.3735, 1.3328]])
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=5e-5)
    ours = BinaryCrossEntropy(smoothing=0.2, smooth_dense=True, sum_classes=True)(logits, target)
    torch.testing.assert_close(bce, ours)
    theirs = 10 * AsymmetricLossMultiLabel(gamma_neg=2, gamma_pos=0, clip=0.05)(logits, target)
    torch.testing.assert_close(asymmetric, theirs)
    assert loss(logits.detach().half() * 10, target).isfinite()


def test_benchmark_table(tmp_path, capsys):
    command(['benchmark', '--models', 'gkgnet_ti_224', '--repeat', '1', '--json', str(tmp_path / 'rows.json')])
    (row,) = json.loads((tmp_path / 'rows.json').read_text())
    assert row['model'] == 'gkgnet_ti_224' and row['img_size'] == 224
    assert 0 < row['forward_s'] and 0 < row['peak_rss_gb'] < row['dense_peak_rss_gb'] + 1
    assert '| gkgnet_ti_224 | 224 |' in capsys.readouterr().out


@pytest.mark.parametrize('door', ['train_multilabel.py', 'validate.py'])
def test_scripts_are_doors_to_the_package(door):
    result = subprocess.run([sys.executable, str(ROOT / door), '--help'], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and f'usage: {door}' in result.stdout


def test_hubconf_has_our_models_and_no_other():
    names = {name for name in runpy.run_path(str(ROOT / 'hubconf.py')) if not name.startswith('_')}
    assert names == {'dependencies', *timm.list_models(module=['gkgnet', 'pvig'])}
    model = torch.hub.load(str(ROOT), 'gkgnet_ti_224', source='local', num_classes=3, img_size=64)
    assert model.num_classes == 3
