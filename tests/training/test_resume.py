"""Runs that are killed and continue, and checkpoints on the way."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch

from gkgnet_timm.__main__ import main
from gkgnet_timm.data import demo
from gkgnet_timm.training import progress

FLAGS = ['-c', 'demo', '--img-size', '32', '-b', '4', '--epochs', '3', '-j', '1', '--device', 'cpu', '--model-ema']
FLAGS += ['--model-ema-decay', '0.9', '--drop-path', '0.2', '--cropmix', '0.5', '--reprob', '0.5', '--aa', 'trivial']
FLAGS += ['--amp', '--amp-dtype', 'float16', '--checkpoint-hist', '2']
FLAGS += ['--model-kwargs', 'depths=(1, 1, 1, 1)', 'dims=(8, 16, 24, 32)', 'k=3', 'label_k=3']


def _kill_in_place_of(owner, name, count):
    original, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def _train(argv, cache, kill_at, file_limit, stdout, stderr):
    for path, stream in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.environ['GKGNET_TIMM_CACHE'] = cache
    demo.SPLITS = {'train': 14, 'val': 5}
    if kill_at:
        _kill_in_place_of(progress.Progress if kill_at[0] == 'update' else os, *kill_at)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    main(['train', *argv])


def serve():
    """Train as each line of stdin says, in a forked process, and answer with its exit code. Imports are done once."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _train(*json.loads(line))
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Result(NamedTuple):
    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope='module')
def train(tmp_path_factory):
    root = tmp_path_factory.mktemp('resume')
    server = subprocess.Popen(
        [sys.executable, '-c', f'import {__name__}; {__name__}.serve()'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path), 'OMP_NUM_THREADS': '1'},
    )

    def train(*argv, kill_at=None, file_limit=None):
        """Train in a process of its own, which is killed in place of the n-th call of a function."""
        streams = [root / 'stdout', root / 'stderr']
        request = [argv, str(root / 'cache'), kill_at, file_limit, *map(str, streams)]
        server.stdin.write(json.dumps(request) + '\n')
        server.stdin.flush()
        return Result(int(server.stdout.readline()), *(path.read_text() for path in streams))

    train.root = root
    yield train
    server.stdin.close()
    server.wait()


@pytest.fixture(scope='module')
def run(train):
    def run(name, **kwargs):
        flags = ['--output', str(train.root), '--experiment', name, '--resume', 'auto']
        return train(*FLAGS, *flags, **kwargs), train.root / name

    return run


@pytest.fixture(scope='module')
def uninterrupted(run):
    result, folder = run('uninterrupted')
    assert result.code == 0, result.stderr
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


# 4 updates an epoch. Saving an epoch calls fsync for the file, replaces last, fsync for the folder, then links and
# replaces the numbered file, and the best one if it is the best. A resumed run trims summary.csv by a replace first.
@pytest.mark.parametrize(
    'kill_at',
    [('update', 2), ('update', 7), ('fsync', 3), ('replace', 4), ('fsync', 4), ('link', 3), ('replace', 5)],
    ids=lambda kill_at: '-'.join(map(str, kill_at)),
)
def test_killed_run_continues_as_if_nothing_had_happened(kill_at, run, uninterrupted):
    name = '-'.join(map(str, kill_at))
    killed, folder = run(name, kill_at=kill_at)
    assert killed.code == -signal.SIGKILL, killed.stderr
    saved = (folder / 'last.pth.tar').exists()
    assert saved == (kill_at != ('update', 2))
    resumed, _ = run(name)
    assert resumed.code == 0, resumed.stderr
    assert ('Continue behind epoch' in resumed.stdout) == saved
    assert_same_run(folder, uninterrupted)


def test_finished_run_has_nothing_left_to_do(run, uninterrupted):
    before = {path.name: path.read_bytes() for path in uninterrupted.glob('*.pth.tar')}
    result, _ = run('uninterrupted')
    assert result.code == 0 and 'Best mAP' in result.stdout, result.stderr
    assert {path.name: path.read_bytes() for path in uninterrupted.glob('*.pth.tar')} == before


def test_resume_by_path_takes_the_flags_of_the_checkpoint(train, run, uninterrupted):
    killed, folder = run('by_path', kill_at=('update', 7))
    assert killed.code == -signal.SIGKILL
    resumed = train('--resume', str(folder / 'last.pth.tar'), '--device', 'cpu')
    assert resumed.code == 0, resumed.stderr
    assert_same_run(folder, uninterrupted)


def test_full_disk_keeps_the_previous_checkpoint(run, uninterrupted):
    killed, folder = run('full', kill_at=('update', 7))
    assert killed.code == -signal.SIGKILL
    before = (folder / 'last.pth.tar').read_bytes()
    full, _ = run('full', file_limit=100_000)
    assert full.code == 2 and full.stderr.count('\n') == 1 and 'is the disk full?' in full.stderr, full.stderr
    assert (folder / 'last.pth.tar').read_bytes() == before
    assert not list(folder.glob('tmp*'))
    assert run('full')[0].code == 0
    assert_same_run(folder, uninterrupted)
