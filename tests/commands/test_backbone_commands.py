"""A label graph on a timm model through every command: train from weights of a backbone, resume, evaluate, predict."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import check_one_line, read_summary

import timm

from gkgnet_timm.__main__ import main
from gkgnet_timm.models import _backbone
from gkgnet_timm.training.config import TrainConfig
from gkgnet_timm.training.criterion import choose_loss

MODEL = '--model gkgnet_backbone --model-kwargs backbone=test_convnext label_dim=16 --img-size 64'.split()
TRAIN = ['train', '--dataset', 'demo', *MODEL, *'-b 8 --epochs 1 -j 0 --device cpu'.split()]
pytestmark = pytest.mark.usefixtures('no_curves')


@pytest.fixture(scope='module')
def trained(small_demo, tmp_path_factory):
    """A run that started from a file of the backbone's weights, and that file."""
    folder = tmp_path_factory.mktemp('trained')
    torch.save(timm.create_model('test_convnext').state_dict(), folder / 'trunk.pth')
    flags = ['--pretrained-path', str(folder / 'trunk.pth'), '--freeze', 'trunk', '--output', str(folder)]
    main([*TRAIN, *flags, '--experiment', 'run'])
    return folder


def test_trunk_is_that_of_the_file(trained):
    trunk = torch.load(trained / 'trunk.pth')
    state = torch.load(trained / 'run' / 'last.pth.tar', weights_only=True)['state_dict']
    kept = {key: value for key, value in state.items() if key.startswith('backbone.')}
    assert kept and all(torch.equal(value, trunk[key.removeprefix('backbone.')]) for key, value in kept.items())


def test_from_a_folder_of_convert(trained, small_demo, tmp_path, capsys):
    """The same scores from the checkpoint, and from the folder, whose config and card name the backbone."""
    folder, checkpoint = tmp_path / 'folder', trained / 'run' / 'last.pth.tar'
    main(['convert', str(checkpoint), '--output', str(folder)])
    config = json.loads((folder / 'config.json').read_text())
    assert config['architecture'] == 'gkgnet_backbone'
    assert config['model_args']['backbone'] == 'test_convnext' and config['model_args']['label_dim'] == 16
    card = (folder / 'README.md').read_text()
    assert 'test_convnext' in card and 'license:' not in card  # of a file of which nothing is known
    Image.fromarray(np.zeros((70, 90, 3), np.uint8)).save(tmp_path / 'photo.png')
    results, rows = [], []
    for number, source in enumerate((checkpoint, folder)):
        scores, out = tmp_path / f'{number}.npz', tmp_path / f'{number}.csv'
        main(['validate', '--checkpoint', str(source), '--dataset', 'demo', '--scores-out', str(scores), '-j', '0'])
        results.append(np.load(scores)['scores'])
        main(['predict', str(tmp_path / 'photo.png'), '--checkpoint', str(source), '--output', str(out), '-j', '0'])
        rows.append(list(csv.reader(out.open())))
    assert np.array_equal(*results) and rows[0] == rows[1] and len(rows[0]) == 2
    config = TrainConfig('demo', model=f'local-dir:{folder}')
    assert choose_loss(config).loss == 'gkgnet' and choose_loss(replace(config, loss='asl')).loss == 'asl'
    assert choose_loss(TrainConfig('demo', model='test_resnet')).loss == 'bce'


def test_runs_are_resumed_and_read_without_weights_of_the_backbone(trained, monkeypatch, tmp_path, capsys):
    """Whatever the run records."""

    def create(name, pretrained=False, **kwargs):
        if name == 'test_convnext':
            asked.append(pretrained)
            pretrained = False  # there is no network
        return original(name, pretrained=pretrained, **kwargs)

    asked, original = [], timm.create_model
    monkeypatch.setattr(_backbone.timm, 'create_model', create)
    monkeypatch.setattr(_backbone, 'check_hub', lambda cfg, cache_dir: None)
    flags = ['--model-kwargs', 'backbone=test_convnext', 'label_dim=16', 'pretrained_backbone=True']
    main([*TRAIN, *flags, '--output', str(tmp_path), '--experiment', 'run'])
    assert True in asked
    asked.clear()
    main([*TRAIN, *flags, '--epochs', '2', '--output', str(tmp_path), '--resume', str(tmp_path / 'run')])
    assert len(read_summary(tmp_path / 'run')) == 2
    checkpoint = str(tmp_path / 'run' / 'last.pth.tar')
    main(['validate', '--checkpoint', checkpoint, '--dataset', 'demo', '-j', '0'])
    main(['convert', checkpoint, '--output', str(tmp_path / 'folder')])
    assert 'license: apache-2.0' in (tmp_path / 'folder' / 'README.md').read_text()
    assert asked and True not in asked


def test_errors_are_one_line(small_demo, capsys):
    for kwargs, message in (
        (['backbone=resnet5O'], "Unknown backbone 'resnet5O', similar: resnet50"),
        (['backbone=vgg11'], 'drop_path_rate'),
        (['backbone=test_resnet', 'out_indices=(3,7)'], 'has 5 maps, 0 to 4'),
        (['backbone=test_resnet', 'num_groups=3', 'label_dim=4'], 'multiple of 6'),
        (['backbon=test_resnet'], "'backbon'"),
    ):
        check_one_line([*TRAIN, '--drop-path', '0.1', '--model-kwargs', *kwargs], message, capsys)
    flags = ['--freeze', 'trunk', '--backbone-lr-scale', '0.1']
    check_one_line([*TRAIN, *flags], 'frozen to the end', capsys)


@pytest.mark.parametrize('kwargs', [[], ['--model', 'gkgnet_backbone', '--model-kwargs', 'backbone=test_vit']])
def test_size_that_a_transformer_cannot_have(small_demo, tmp_path, capsys, kwargs):
    flags = ['train', '--dataset', 'demo', '--model', 'test_vit', *kwargs, *'-b 8 --epochs 1 -j 0'.split()]
    flags += ['--output', str(tmp_path), '--experiment', 'run']
    check_one_line([*flags, '--img-size', '65'], '65.*divisible by patch size', capsys)
    main([*flags, '--img-size', '64'])
    checkpoint = str(tmp_path / 'run' / 'last.pth.tar')
    for command in (['validate', '--dataset', 'demo'], ['predict', str(tmp_path)]):
        check_one_line([*command, '--checkpoint', checkpoint, '--img-size', '65'], 'Image size 65', capsys)
