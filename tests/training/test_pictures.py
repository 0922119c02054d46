"""Pictures of what a model is trained on."""

import numpy as np
import pytest
import torch
from pictures import read_picture
from runs import TINY

from gkgnet_timm.commands.train import main as train
from gkgnet_timm.training import pictures

pytestmark = pytest.mark.usefixtures('no_curves')

NAMES = ['dog', 'überlange Straßenbahn der Wiener Linien', '猫', 'd', 'e', 'f']


@pytest.mark.parametrize(
    'target, lines',
    [
        ([1, 1, 0, 0, 0, 0], ['dog', 'überlange Stra…Wiener Linien']),
        ([0, 0, 0, 0, 0, 0], ['no label']),
        ([0.25, 0, 0.75, 0, 0, 0], ['猫 0.75', 'dog 0.25']),
        ([0, 0, 1, -1, 0, 0], ['猫', 'd ?']),
        ([1, 0, 0, -1, -1, -1], ['dog', '3 unknown']),
        ([1, 0, 1, 1, 1, 1], ['dog', '猫', 'd', '2 more']),
        ([1, 0, 1, 1, 1, 0], ['dog', '猫', 'd', 'e']),
    ],
)
def test_labels_of_an_image(target, lines):
    assert pictures.label_lines(target, NAMES) == lines


@pytest.mark.parametrize('images, channels', [(1, 3), (5, 3), (40, 3), (2, 1)])
def test_pixels_and_labels_are_those_of_the_batch(images, channels, tmp_path, monkeypatch):
    figures = []
    create_figure = pictures.create_figure
    monkeypatch.setattr(
        pictures, 'create_figure', lambda **kwargs: figures.append(create_figure(**kwargs)) or figures[0]
    )
    pixels = torch.rand(images, channels, 8, 8)
    targets = torch.eye(6)[torch.arange(images) % 6]
    targets[-1] = torch.nan if images > 1 else targets[-1]  # an image that cannot be read
    mean, std = [[0.5, 0.4, 0.3][:channels], [0.2, 0.3, 0.4][:channels]]
    normalised = (pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    loader = [(normalised, targets), None]
    pictures.draw_batch(tmp_path / 'batch.png', loader, NAMES, dict(mean=mean, std=std))
    shown = [axes for axes in figures[0].axes if axes.images]
    assert len(shown) == min(max(images - 1, 1), 16)
    for i, axes in enumerate(shown):
        expected = pixels[i].permute(1, 2, 0).squeeze().numpy()
        assert np.asarray(axes.images[0].get_array()) == pytest.approx(expected, abs=1e-5)
        assert axes.get_title() == '\n'.join(pictures.label_lines(targets[i].tolist(), NAMES))
    read_picture(tmp_path / 'batch.png')


def test_run_is_the_same_with_pictures(small_demo, tmp_path, capsys):
    """They are drawn once, of a start; whatever was there of a start that failed is replaced."""
    flags = [*TINY, '--epochs', '1', '--mixup', '0.5', '--reprob', '0.5', '--output', str(tmp_path)]
    train([*flags, '--experiment', 'plain'])
    picture = tmp_path / 'run' / 'train_batch.png'
    assert 'Images of training' not in capsys.readouterr().out and not (tmp_path / 'plain' / picture.name).exists()
    picture.parent.mkdir()
    picture.write_bytes(b'of another run')
    train([*flags, '--experiment', 'run', '--log-images'])
    assert capsys.readouterr().out.count(f'Images of training with their labels: {picture}') == 1
    read_picture(picture)
    plain, run = (torch.load(tmp_path / name / 'last.pth.tar', weights_only=True) for name in ('plain', 'run'))
    assert all(torch.equal(value, run['state_dict'][name]) for name, value in plain['state_dict'].items())

    before = picture.read_bytes()
    train(['--resume', str(tmp_path / 'run' / 'last.pth.tar'), '--epochs', '2', '--device', 'cpu'])
    assert picture.read_bytes() == before and 'Images of training' not in capsys.readouterr().out
