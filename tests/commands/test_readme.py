"""The Python of the README, as written."""

import re

import pytest
import torch
from conftest import ROOT, save_image

BLOCKS = dict(re.findall(r'<!-- python: (\w+) -->\n```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.S))


@pytest.fixture(scope='module')
def folder(tmp_path_factory, small_demo):
    folder = tmp_path_factory.mktemp('readme')
    for i in range(3):
        save_image(folder / 'photos' / f'{i}.png', i)
    (folder / 'photos' / 'broken.jpg').write_bytes(b'no image')
    return folder


def test_training_validation_and_prediction(folder, monkeypatch, capsys):
    """The commands of the main job, from Python: each goes on from what the one before it left."""
    monkeypatch.chdir(folder)
    names = {}
    for job in ('train', 'validate', 'predict', 'explain'):
        exec(compile(BLOCKS[job], f'README, {job}', 'exec'), names)
    lines = capsys.readouterr().out.splitlines()
    mAP = torch.load('output/train/first/model_best.pth.tar', weights_only=True)['metric']
    best = next(line for line in lines if line.startswith('Best mAP'))
    assert best.startswith(f'Best mAP {mAP:.4f} after epoch')
    assert str(names['metrics']['mAP']) in lines and str(names['result'].metrics['mAP']) in lines
    assert names['result'].metrics['mAP'] == mAP
    assert 'similarity' in lines.pop() and (folder / 'why.png').stat().st_size > 0
    predictions = dict(line.split(' ', 1) for line in lines[-4:])
    assert [file.rpartition('/')[2] for file in predictions] == ['0.png', '1.png', '2.png', 'broken.jpg']
    assert 'it is not an image' in predictions.pop('photos/broken.jpg')
    assert all(line.startswith('{') for line in predictions.values())
