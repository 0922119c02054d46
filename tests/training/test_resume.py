"""Runs that are killed and continue, and checkpoints on the way."""

import csv
import multiprocessing
import os
import resource
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from runs import NARROW_MODEL
from serving import command

from gkgnet_timm.data import demo_root
from gkgnet_timm.graph import cpu
from gkgnet_timm.inference import precision
from gkgnet_timm.layers import norm_act
from gkgnet_timm.training import progress

FLAGS = '-c demo --img-size 32 -b 4 --epochs 3 -j 1 --device cpu --model-ema --model-ema-decay 0.9'.split()
FLAGS += '--drop-path 0.2 --cropmix 0.5 --reprob 0.5 --aa trivial --amp --amp-dtype float16'.split()
FLAGS += ['--checkpoint-hist', '2', *NARROW_MODEL]

# 4 updates an epoch. Saving an epoch calls fsync for the file, replaces last, fsync for the folder, then links and
# replaces the numbered file, and the best one if it is the best. A resumed run trims summary.csv by a replace first.
MOMENTS = ['update-2', 'update-7', 'fsync-3', 'replace-4', 'fsync-4', 'link-3', 'replace-5']


def _in_place_of(moment, action):
    """Let an action come before the n-th call of a function."""
    name, _, count = moment.partition('-')
    owner = progress.Progress if name == 'update' else os
    original, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == int(count):
            action()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def _copy(folder, to):
    """Copy a folder with its hard links."""
    subprocess.run(['cp', '-a', str(folder), str(to)], check=True)


def _train(argv, cache, kill_at=None, file_limit=None, copied=None, start='fork', speed=None):
    """Train, to be killed at a moment, or to copy a folder at many of them: a kill leaves exactly these files."""
    os.environ['GKGNET_TIMM_CACHE'] = cache
    multiprocessing.set_start_method(start, force=True)
    demo_root({'train': 14, 'val': 5})
    for kernels in (cpu, norm_act):
        kernels._load_kernels()  # keeps them, by a replace that is none of the moments
    if speed:
        precision.speed_of_half = lambda device, amp_dtype: speed
    if kill_at:
        _in_place_of(kill_at, partial(os.kill, os.getpid(), signal.SIGKILL))
    for moment in MOMENTS if copied else ():
        _in_place_of(moment, partial(_copy, copied, f'{copied}-{moment}'))
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    command('train', *argv)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('resume')


@pytest.fixture(scope='module')
def train(server, root):
    """Train in a process of its own."""

    def train(*argv, **kwargs):
        return server.call(_train, argv, str(root / 'cache'), **kwargs)

    return train


@pytest.fixture(scope='module')
def run(train, root):
    """Train in a folder, continuing from the last checkpoint there."""

    def run(folder, **kwargs):
        return train(*FLAGS, '--output', str(root), '--experiment', folder.name, '--resume', 'auto', **kwargs)

    return run


@pytest.fixture(scope='module')
def uninterrupted(run, root):
    folder = root / 'uninterrupted'
    result = run(folder, copied=str(folder))
    assert result.code == 0, result.stderr
    return folder


@pytest.fixture(scope='module')
def killed(run, root):
    """What a run leaves that is killed in its second epoch."""
    folder = root / 'killed'
    result = run(folder, kill_at='update-7')
    assert result.code == -signal.SIGKILL, result.stderr
    return folder


def assert_same_run(folder, reference):
    for name in ('last.pth.tar', 'model_best.pth.tar'):
        ours, theirs = (torch.load(path / name, weights_only=False) for path in (folder, reference))
        assert ours['epoch'] == theirs['epoch'] and ours['metric'] == theirs['metric']
        assert ours['amp_scaler'] == theirs['amp_scaler']
        assert ours['saver'] == theirs['saver']
        for part in ('state_dict', 'state_dict_ema'):
            assert ours[part].keys() == theirs[part].keys()
            for key, value in theirs[part].items():
                assert torch.equal(ours[part][key], value), (name, part, key)
        states = [checkpoint['optimizer']['state'] for checkpoint in (ours, theirs)]
        for index, state in states[1].items():
            assert all(torch.equal(states[0][index][key], value) for key, value in state.items())
    rows = [list(csv.DictReader((path / 'summary.csv').open())) for path in (folder, reference)]
    assert rows[0] == rows[1] and len(rows[1]) == 3
    numbered = [sorted(path.name for path in parent.glob('checkpoint-*')) for parent in (folder, reference)]
    assert numbered[0] == numbered[1]


@pytest.mark.parametrize('moment', MOMENTS)
def test_killed_run_continues_as_if_nothing_had_happened(moment, run, uninterrupted, root):
    folder = root / moment
    _copy(f'{uninterrupted}-{moment}', folder)
    saved = (folder / 'last.pth.tar').exists()
    assert saved == (moment != 'update-2')
    resumed = run(folder)
    assert resumed.code == 0, resumed.stderr
    assert ('Resumed after epoch' in resumed.stdout) == saved
    assert_same_run(folder, uninterrupted)


def test_kill_leaves_what_was_copied(killed, uninterrupted):
    copied = Path(f'{uninterrupted}-update-7')
    files = [{path.name: path.stat().st_nlink for path in folder.iterdir()} for folder in (killed, copied)]
    assert files[0] == files[1] and {'args.yaml', 'last.pth.tar', 'summary.csv'} < files[0].keys()
    assert (killed / 'summary.csv').read_text() == (copied / 'summary.csv').read_text()
    states = [torch.load(folder / 'last.pth.tar', weights_only=False) for folder in (killed, copied)]
    assert states[0]['epoch'] == states[1]['epoch'] == 0
    for key, value in states[1]['state_dict'].items():
        assert torch.equal(states[0]['state_dict'][key], value), key


def test_run_continues_with_workers_that_start_by_spawn(killed, run, uninterrupted, root):
    """As on another system: they live through both epochs that are left, and draw the same."""
    folder = root / 'spawn'
    _copy(killed, folder)
    resumed = run(folder, start='spawn')
    assert resumed.code == 0 and 'Resumed after epoch 1' in resumed.stdout, resumed.stderr
    assert_same_run(folder, uninterrupted)


def test_finished_run_has_nothing_left_to_do(run, uninterrupted):
    before = {path.name: path.read_bytes() for path in uninterrupted.glob('*.pth.tar')}
    result = run(uninterrupted)
    assert result.code == 0 and 'Best mAP' in result.stdout, result.stderr
    assert {path.name: path.read_bytes() for path in uninterrupted.glob('*.pth.tar')} == before


def test_resume_by_path_takes_the_flags_of_the_checkpoint(train, killed, uninterrupted, root):
    folder = root / 'by_path'
    _copy(killed, folder)
    resumed = train('--resume', str(folder / 'last.pth.tar'), '--device', 'cpu')
    assert resumed.code == 0, resumed.stderr
    assert_same_run(folder, uninterrupted)


def test_full_disk_keeps_the_previous_checkpoint(run, killed, uninterrupted, root):
    folder = root / 'full'
    _copy(killed, folder)
    before = (folder / 'last.pth.tar').read_bytes()
    full = run(folder, file_limit=400_000)  # enough for the compiler, not for a checkpoint
    lines = [line for line in full.stderr.splitlines() if not line.startswith('Warning: matrix products')]
    assert full.code == 2 and len(lines) == 1 and 'is the disk full?' in lines[0], full.stderr
    assert (folder / 'last.pth.tar').read_bytes() == before
    assert not list(folder.glob('tmp*'))
    assert run(folder).code == 0
    assert_same_run(folder, uninterrupted)


def test_a_run_begun_with_amp_auto_keeps_its_precision(train, root):
    """A machine that is slower when the run is resumed computes as the one that began it."""
    flags = '-c demo --img-size 32 -b 4 -j 0 --device cpu --amp auto'.split() + NARROW_MODEL
    flags += ['--output', str(root), '--experiment', 'auto', '--resume', 'auto']
    for epochs, ratio in (('1', 8.0), ('2', 0.1)):
        result = train(*flags, '--epochs', epochs, speed=ratio)
        assert result.code == 0, result.stderr
        assert torch.load(root / 'auto' / 'last.pth.tar', weights_only=False)['args']['amp'] is True
    assert 'take 10.0 times as long' in result.stderr
