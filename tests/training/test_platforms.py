"""Windows and macOS: what fails there is replaced by a failure here."""

import errno
import json
import os
import pickle
import random
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, save_image
from runs import NARROW_MODEL, TINY
from torch.utils.data import DataLoader

import timm
from timm.data import create_transform

from gkgnet_timm.commands.train import main as train
from gkgnet_timm.data import open_split
from gkgnet_timm.data.check import decode_all
from gkgnet_timm.data.loader import TrainCollate
from gkgnet_timm.data.transforms import create_train_transform
from gkgnet_timm.inference.predictor import predict_images

pytestmark = pytest.mark.usefixtures('small_demo', 'no_curves')


def as_on_windows(monkeypatch, folder):
    """No folder can be opened, and no file synced that is open for reading only. Returns the synced files."""
    import fcntl  # Windows has none

    synced, fsync, open_file = [], os.fsync, os.open

    def fsync_of_windows(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, 'Bad file descriptor')
        synced.append(os.readlink(f'/proc/self/fd/{descriptor}'))
        fsync(descriptor)

    def open_of_windows(path, *args, **kwargs):
        if Path(path) in (folder / 'run', folder):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(os, 'fsync', fsync_of_windows)
    monkeypatch.setattr(os, 'open', open_of_windows)
    return synced


def folders_that_do_not_sync(monkeypatch, folder):
    synced, fsync = [], os.fsync

    def fsync_of_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, 'Invalid argument')
        synced.append(os.readlink(f'/proc/self/fd/{descriptor}'))
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync_of_files)
    return synced


@pytest.mark.skipif(sys.platform != 'linux', reason='looks into /proc')
@pytest.mark.parametrize('platform', [as_on_windows, folders_that_do_not_sync])
def test_checkpoints_are_written_and_synced(platform, tmp_path, monkeypatch):
    synced = platform(monkeypatch, tmp_path)
    train([*TINY, '--output', str(tmp_path), '--experiment', 'run'])
    assert torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=True)['epoch'] == 1
    assert synced == [str(tmp_path / 'run' / 'tmp.pth.tar')] * 2


def test_a_file_that_does_not_sync_is_an_error(tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(OSError, match='Cannot write the checkpoint of epoch 1'):
        train([*TINY, '--output', str(tmp_path), '--experiment', 'run'])


@pytest.mark.parametrize('transform', ['train', 'cropmix', 'policy', 'none', 'eval'])
def test_data_sets_and_transforms_pickle(transform):
    options = dict(
        train=dict(scale=(0.5, 1.0), reprob=0.5, color_jitter=0.4),
        cropmix=dict(cropmix=0.5, auto_augment='trivial'),
        policy=dict(auto_augment='rand-m9-mstd0.5', train_crop_mode='rkrc'),
        none=dict(no_aug=True),
    )
    dataset = open_split('demo', split='val', verbose=False)
    size = (3, 32, 32)
    dataset.transform = (
        create_transform(size) if transform == 'eval' else create_train_transform(size, **options[transform])
    )
    copied = pickle.loads(pickle.dumps(dataset))
    results = []
    for each in (dataset, copied):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        image, target = each[3]
        results.append((torch.as_tensor(image), target))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_workers_start_by_spawn():
    """They give the batches of this process; all that commands hand to workers pickles."""
    dataset = open_split('demo', split='val', verbose=False)
    dataset.transform = create_train_transform((3, 32, 32), no_aug=True)
    collate = TrainCollate(8, dict(mixup_alpha=0.4, cutmix_alpha=1.0, prob=0.0, mode='batch'))
    options = dict(batch_size=4, collate_fn=collate)
    here = list(DataLoader(dataset, **options))
    there = list(DataLoader(dataset, **options, num_workers=1, multiprocessing_context='spawn'))
    assert len(here) == len(there) == 3
    for ours, theirs in zip(here, there):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_what_predict_and_check_data_hand_to_workers_pickles(small_demo, monkeypatch):
    handed = []

    class Loader(DataLoader):
        def __init__(self, dataset, *args, **kwargs):
            handed.append((dataset, kwargs.get('collate_fn')))
            super().__init__(pickle.loads(pickle.dumps(dataset)), *args, **kwargs)

    for module in ('inference.predictor', 'data.check'):
        monkeypatch.setattr(f'gkgnet_timm.{module}.DataLoader', Loader)
    sizes, bad = decode_all(open_split('demo', split='val', verbose=False), 0)
    assert len(sizes) == 11 and not bad
    model = timm.create_model('test_resnet', num_classes=3)
    predictions = list(predict_images(model, small_demo / 'val', workers=0, device='cpu'))
    assert len(predictions) == 11 and not any(error for _, _, error in predictions)
    assert len(handed) == 2 and pickle.loads(pickle.dumps(handed[1][1])) is handed[1][1]


ASCII = dict(PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', LC_ALL='C', PYTHONIOENCODING='')


def test_text_is_utf8_whatever_the_locale(tmp_path):
    """Class names outside ASCII, from check-data and split to training, results and convert."""
    for i in range(8):
        save_image(tmp_path / f'{i}.png', i)
    rows = ''.join(f'{i}.png,{i % 2},{int(i < 4)}\n' for i in range(8))
    (tmp_path / 'all.csv').write_text(f'image,猫,größe\n{rows}', encoding='utf-8')
    argv = '--model gkgnet_ti_224 --img-size 32 -b 4 --epochs 1 -j 0 --device cpu'.split() + NARROW_MODEL
    checkpoint = 'output/train/run/model_best.pth.tar'
    data = ['--dataset', 'csv', '--data-dir', '.']
    commands = [
        ['check-data', *data, '--split', 'all.csv', '-j', '0'],
        ['split', 'all.csv', '--output', 'parts', '--val', '0.5'],
        ['train', *data, '--train-split', 'parts/train.csv', '--val-split', 'parts/val.csv', *argv,
         '--experiment', 'run'],
        ['validate', '--checkpoint', checkpoint, '-j', '0', '--results-file', 'r.json', '--metrics-by-class', 'c.csv',
         '--calibrate', 't.json', '--scores-out', 's.npz', '--plots', 'plots'],
        ['convert', checkpoint, '--output', 'out'],
        ['predict', '1.png', '--checkpoint', checkpoint, '--output', 'p.csv', '-j', '0'],
    ]  # fmt: skip
    script = f'import gkgnet_timm.__main__ as package\nfor argv in {commands!r}: package.main(argv)'
    (tmp_path / 'script.py').write_text(script, encoding='utf-8')
    environment = dict(os.environ, PYTHONPATH=str(ROOT), **ASCII)
    run = subprocess.run([sys.executable, 'script.py'], capture_output=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert rb'\u732b' in run.stdout
    for name in ('parts/train.csv', 'c.csv', 't.json', 'out/config.json'):
        text = Path(tmp_path, name).read_text(encoding='utf-8')
        assert '猫' in (json.dumps(json.loads(text), ensure_ascii=False) if name.endswith('.json') else text), name
    assert Path(tmp_path, 'p.csv').read_text(encoding='utf-8').startswith('file,labels')
