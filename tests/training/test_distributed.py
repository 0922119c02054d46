"""Training by two processes."""

import csv
import json
import os
import subprocess
import sys
from datetime import datetime
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, save_image
from runs import NARROW_MODEL
from serving import command, ranks_of_slurm, ranks_of_torchrun

from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.inference.device import start_process
from gkgnet_timm.metrics import MultiLabelEvaluator
from gkgnet_timm.training import build, run
from gkgnet_timm.training.config import TrainConfig

FLAGS = '--model gkgnet_ti_224 --img-size 32 -b 3 -j 1 --epochs 2 --device cpu'.split() + NARROW_MODEL


@pytest.fixture
def data(tmp_path):
    """11 and 7 images of random labels, one of which can not be read in evaluation."""
    for split, count in (('train', 11), ('val', 7)):
        images = [dict(id=i, file_name=f'{i}.png') for i in range(count)]
        for image in images:
            save_image(tmp_path / split / image['file_name'], image['id'])
        annotations = [dict(id=i, image_id=i, category_id=1 + i % 3, iscrowd=0) for i in range(count)]
        categories = [dict(id=i, name=name) for i, name in enumerate(['cat', 'dog', 'cow'], 1)]
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        content = dict(images=images, annotations=annotations, categories=categories)
        (tmp_path / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    (tmp_path / 'val' / '4.png').write_bytes(b'no image')
    return ['--dataset', 'coco', '--data-dir', str(tmp_path), '--train-split', 'train', '--val-split', 'val']


def run_ranks(server, environments, *argv):
    """Run a command as several ranks; returns what the first prints. The others print nothing."""
    first, *others = server.call_together(environments, command, *argv)
    assert first.code == 0 and all(other.code == 0 and not other.stdout for other in others), (first, others)
    return first.stdout


def test_two_processes(data, tmp_path, server):
    flags = [*FLAGS, *data, '--output', str(tmp_path / 'out'), '--experiment', 'run', '--on-bad-image', 'skip']
    flags += ['--model-ema', '--model-ema-decay', '0.5', '--grad-accum-steps', '2']
    launcher = [sys.executable, *'-m torch.distributed.run --standalone --nproc_per_node 2'.split()]
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    launched = subprocess.run(
        [*launcher, str(ROOT / 'train_multilabel.py'), *flags], capture_output=True, text=True, env=environment
    )
    assert launched.returncode == 0, launched.stderr
    printed = launched.stdout
    # 6 images for each process, in 2 batches and 1 update
    assert printed.count('epoch 1/2 [   1/1]') == 1 and printed.count('Best mAP') == 1
    folder = tmp_path / 'out' / 'run'
    assert {path.name for path in folder.iterdir()} == {
        'args.yaml', 'bad_images.txt', 'checkpoint-1.pth.tar', 'checkpoint-2.pth.tar', 'curves.png', 'last.pth.tar',
        'model_best.pth.tar', 'summary.csv',
    }  # fmt: skip
    assert set((folder / 'bad_images.txt').read_text().split()) == {str(tmp_path / 'val' / '4.png')}

    # one process evaluates the checkpoint to the same metrics: no image is counted twice, none is missing
    last = [row for row in csv.DictReader((folder / 'summary.csv').open())][-1]
    checkpoint = ['--checkpoint', str(folder / 'last.pth.tar'), '--on-bad-image', 'skip']
    result = validate([*checkpoint, '-j', '0'])
    assert result['images'] == 6
    for name in MultiLabelEvaluator.metric_names:
        if name != 'loss':
            assert float(last[f'eval_{name}']) == result[name], name
    # which images share a batch rounds logits differently
    assert float(last['eval_bce']) == pytest.approx(result['bce'], abs=1e-6)

    printed = run_ranks(server, ranks_of_torchrun(), 'validate', *checkpoint, '-j', '0')
    ours = json.loads(printed.split('--result')[1])
    for name, value in result.items():
        assert ours[name] == (round(value, 4) if isinstance(value, float) else value), name

    # resume in two processes
    resume = ['--resume', str(folder / 'last.pth.tar'), '--epochs', '3', '--device', 'cpu']
    printed = run_ranks(server, ranks_of_torchrun(), 'train', *resume)
    assert printed.count('Resumed after epoch 2') == 1 and 'epoch 3/3' in printed
    state = torch.load(folder / 'last.pth.tar', weights_only=False)
    assert state['epoch'] == 2 and not any('module.' in key for key in state['state_dict'])


def test_slurm_variables(data, tmp_path, server):
    """timm reads the ranks of SLURM, the address comes from the environment as under any launcher."""
    flags = [*FLAGS, *data, '--epochs', '1', '--val-split', 'train', '--val-images', str(tmp_path / 'val')]
    (tmp_path / 'val' / '4.png').unlink()
    for i in (4, *range(7, 11)):
        save_image(tmp_path / 'val' / f'{i}.png', i)
    flags += ['--output', str(tmp_path / 'out'), '--experiment', 'run']
    printed = run_ranks(server, ranks_of_slurm(), 'train', *flags)
    assert 'epoch 1/1 [   2/2]' in printed and 'Best mAP' in printed


def train_and_keep_statistics(folder, mode):
    """Train a rank, and keep the running statistics that it has at the end."""
    tasks = []
    run.create_task = lambda *args, **kwargs: tasks.append(build.create_task(*args, **kwargs)) or tasks[-1]
    flags = [*FLAGS, '--epochs', '1', '--dataset', 'csv', '--data-dir', folder, '--output', folder, '-j', '0']
    command('train', *flags, '--dist-bn', mode)
    buffers = tasks[0].get_trainable_module().named_buffers()
    torch.save({name: value for name, value in buffers if 'running' in name}, f'{folder}/{os.environ["RANK"]}.pth')


def test_running_statistics_of_two_processes(tmp_path, server):
    """Those of '' are of each process, 'broadcast' takes the first ones, 'reduce' their mean."""
    for i in range(12):
        save_image(tmp_path / f'{i}.png', i)
    for split, rows in (('train', range(12)), ('val', range(4))):
        (tmp_path / f'{split}.csv').write_text('file,labels\n' + ''.join(f'{i}.png,{"ab"[i % 2]}\n' for i in rows))
    statistics = {}
    for mode in ('', 'broadcast', 'reduce'):
        results = server.call_together(ranks_of_torchrun(), train_and_keep_statistics, str(tmp_path), mode)
        assert [result.code for result in results] == [0, 0], results
        statistics[mode] = [torch.load(tmp_path / f'{rank}.pth') for rank in range(2)]
    pairs = {name: (first, statistics[''][1][name]) for name, first in statistics[''][0].items()}
    assert sum(not torch.equal(first, second) for first, second in pairs.values()) > 20
    for name, (first, second) in pairs.items():
        for ours in statistics['broadcast']:
            assert torch.equal(ours[name], first), name
        for ours in statistics['reduce']:
            torch.testing.assert_close(ours[name], (first + second) / 2)


def test_batch_statistics_are_shared_by_gpus_only(data, server):
    results = server.call_together(ranks_of_torchrun(), command, 'train', *FLAGS, *data, '--sync-bn')
    errors = [result.stderr for result in results if result.code == 2]  # the first to end ends the other
    assert errors and set(errors) == {"error: --sync-bn works on CUDA devices only, not on 'cpu'.\n"}, results


def print_name():
    """Name a run by a clock that goes wrong by years."""
    process = start_process('cpu')
    run.datetime = SimpleNamespace(now=lambda: datetime(2020 + process.rank, 1, 2))
    print(run._name_run(TrainConfig('demo'), process).experiment)


def test_clocks_that_differ_name_one_run(server):
    results = server.call_together(ranks_of_torchrun(), print_name)
    assert [result.stdout for result in results] == ['20200102-000000-gkgnet_224\n'] * 2, results
