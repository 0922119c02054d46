"""Training by two processes."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, save_image

from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.metrics import MultiLabelEvaluator

FLAGS = ['--model', 'gkgnet_ti_224', '--img-size', '32', '-b', '3', '-j', '1', '--epochs', '2', '--device', 'cpu']
FLAGS += ['--model-kwargs', 'depths=(1, 1, 1, 1)', 'dims=(8, 16, 24, 32)', 'k=3', 'label_k=3']


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


def launch(processes, flags, script='train_multilabel.py'):
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
    result = subprocess.run(
        [sys.executable, *launcher, str(ROOT / script), *flags],
        capture_output=True,
        text=True,
        env=os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_two_processes(data, tmp_path):
    flags = [*FLAGS, *data, '--output', str(tmp_path / 'out'), '--experiment', 'run', '--on-bad-image', 'skip']
    flags += ['--model-ema', '--model-ema-decay', '0.5', '--grad-accum-steps', '2']
    printed = launch(2, flags)
    # 6 images for each process, in 2 batches and 1 update
    assert printed.count('epoch 1/2 [   1/1]') == 1 and printed.count('Best mAP') == 1
    folder = tmp_path / 'out' / 'run'
    assert {path.name for path in folder.iterdir()} == {
        'args.yaml', 'bad_images.txt', 'checkpoint-0.pth.tar', 'checkpoint-1.pth.tar', 'curves.png', 'last.pth.tar',
        'model_best.pth.tar', 'summary.csv',
    }  # fmt: skip
    assert set((folder / 'bad_images.txt').read_text().split()) == {str(tmp_path / 'val' / '4.png')}

    # one process evaluates the checkpoint to the same metrics: no image is counted twice, none is missing
    last = [row for row in csv.DictReader((folder / 'summary.csv').open())][-1]
    checkpoint = ['--checkpoint', str(folder / 'last.pth.tar'), '--use-ema', '--on-bad-image', 'skip']
    result = validate([*checkpoint, '-j', '0'])
    assert result['images'] == 6
    for name in MultiLabelEvaluator.metric_names:
        if name != 'loss':
            assert float(last[f'eval_{name}']) == result[name], name
    # which images share a batch rounds logits differently
    assert float(last['eval_loss']) == pytest.approx(result['loss'], abs=1e-6)

    printed = launch(2, [*checkpoint, '-j', '0'], 'validate.py')
    ours = json.loads(printed.split('--result')[1])
    for name, value in result.items():
        assert ours[name] == (pytest.approx(value, abs=1e-6) if name == 'loss' else value), name

    # resume in two processes
    printed = launch(2, ['--resume', str(folder / 'last.pth.tar'), '--epochs', '3', '--device', 'cpu'])
    assert printed.count('Continue behind epoch 2') == 1 and 'epoch 3/3' in printed
    state = torch.load(folder / 'last.pth.tar', weights_only=False)
    assert state['epoch'] == 2 and not any('module.' in key for key in state['state_dict'])


def test_slurm_variables(data, tmp_path):
    """timm reads the ranks of SLURM, the address comes from the environment as under any launcher."""
    flags = [*FLAGS, *data, '--epochs', '1', '--val-split', 'train', '--val-images', str(tmp_path / 'val')]
    (tmp_path / 'val' / '4.png').unlink()
    for i in (4, *range(7, 11)):
        save_image(tmp_path / 'val' / f'{i}.png', i)
    flags += ['--output', str(tmp_path / 'out'), '--experiment', 'run']
    store = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(20000 + os.getpid() % 20000)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(ROOT / 'train_multilabel.py'), *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {'SLURM_PROCID': str(rank), 'SLURM_LOCALID': str(rank), 'SLURM_NTASKS': '2', 'OMP_NUM_THREADS': '1'}
            | {'PYTHONPATH': str(ROOT), **store},
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert 'Best mAP' in outputs[0][0] and not outputs[1][0].strip()
