"""Frozen trunks: weights and statistics stay, for a while or to the end."""

import csv
import os
from dataclasses import replace

import pytest
import torch
from runs import NARROW_MODEL, TINY
from serving import ranks_of_torchrun

import timm

from gkgnet_timm.commands.train import main as train
from gkgnet_timm.training import build, run
from gkgnet_timm.training.config import TrainConfig
from gkgnet_timm.training.freeze import scale_trunk_rate, set_frozen
from gkgnet_timm.training.schedule import create_schedule

pytestmark = pytest.mark.usefixtures('no_curves')

HEADS = {
    'gkgnet_ti_224': ('label_', 'head_'),
    'pvig_ti_224': ('head.fc.',),
    'test_resnet': ('fc.',),
    'test_vit': ('head.',),
}


def start_and_end(folder, flags, monkeypatch):
    """Train, and return the tensors of the model before and after."""
    tasks, starts = [], []

    def create_task(*args, **kwargs):
        tasks.append(original(*args, **kwargs))
        starts.append({name: value.clone() for name, value in tasks[0].get_trainable_module().state_dict().items()})
        return tasks[0]

    original = build.create_task
    monkeypatch.setattr('gkgnet_timm.training.run.create_task', create_task)
    train([*TINY, *flags, '--lr', '1e-2', '--warmup-epochs', '0', '--output', str(folder), '--experiment', 'run'])
    return starts[0], torch.load(folder / 'run' / 'last.pth.tar', weights_only=True)['state_dict']


@pytest.mark.parametrize('name', HEADS)
def test_frozen_trunk_stays_bit_for_bit(name, small_demo, tmp_path, monkeypatch):
    kwargs = NARROW_MODEL if name == 'gkgnet_ti_224' else ['--model-kwargs']
    kwargs += ['--drop-path', '0.2'] if name == 'gkgnet_ti_224' else []
    size = ['--img-size', '160'] if name in ('test_resnet', 'test_vit') else []
    start, end = start_and_end(tmp_path, ['--model', name, *kwargs, *size, '--freeze', 'trunk'], monkeypatch)
    for key, value in start.items():
        is_head = key.startswith(HEADS[name])
        if is_head and value.is_floating_point() and value.ndim > 1:
            assert not torch.equal(value, end[key]), key
        if not is_head:
            assert torch.equal(value, end[key]), key
    assert sum(not key.startswith(HEADS[name]) for key in start) > 10


@pytest.mark.parametrize('epochs, frozen', [('1', False), ('2', True)])
def test_trunk_is_released_after_some_epochs(epochs, frozen, small_demo, tmp_path, monkeypatch):
    start, end = start_and_end(tmp_path, ['--freeze', 'trunk', '--freeze-epochs', epochs], monkeypatch)
    for key in ('stem.conv1.conv.weight', 'stem.conv1.bn.running_mean'):
        assert torch.equal(start[key], end[key]) == frozen, key


def test_trunk_is_released_in_a_run_that_is_resumed(small_demo, tmp_path):
    flags = [*TINY, '--freeze', 'trunk', '--freeze-epochs', '1', '--output', str(tmp_path)]
    train([*flags, '--epochs', '2', '--experiment', 'run'])
    train([*flags, '--epochs', '3', '--resume', str(tmp_path / 'run')])
    first, last = (
        torch.load(tmp_path / 'run' / f'{name}.pth.tar', weights_only=True)['state_dict']['stem.conv1.conv.weight']
        for name in ('checkpoint-2', 'last')
    )
    assert not torch.equal(first, last)


def test_trunk_that_was_never_trained_is_a_warning(small_demo, tmp_path, capsys):
    for flags, expected in (['--freeze', 'trunk'], 1), ([], 0):
        train([*TINY, *flags, '--epochs', '1', '--output', str(tmp_path)])
        assert (
            capsys.readouterr().out.count('Warning: --freeze trunk keeps weights that were never trained') == expected
        )


def test_model_without_a_classifier():
    with pytest.raises(ValueError, match='ResNet has no classifier apart from its trunk'):
        set_frozen(timm.create_model('test_resnet', num_classes=0), True)


def test_gradients_stop_at_the_trunk():
    model = timm.create_model('gkgnet_ti_224', img_size=64, num_classes=3, depths=(1,) * 4, dims=(8, 16, 24, 32), k=3)
    set_frozen(model, True)
    model.set_grad_checkpointing()
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    assert model.stem.conv1.conv.weight.grad is None and model.label_embed.weight.grad is not None
    set_frozen(model, False)
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    assert model.stem.conv1.conv.weight.grad.any()


def test_epochs_that_are_frozen():
    config = TrainConfig('demo', freeze='trunk', freeze_epochs=2)
    assert [config.is_frozen(epoch) for epoch in range(4)] == [True, True, False, False]
    assert TrainConfig('demo', freeze='trunk').is_frozen(99) and not TrainConfig('demo').is_frozen(0)


def train_rank(folder):
    """Train a rank, and keep the weights that it has at the end."""
    tasks = []
    run.create_task = lambda *args, **kwargs: tasks.append(build.create_task(*args, **kwargs)) or tasks[-1]
    train([*TINY, '-b', '4', '--freeze', 'trunk', '--freeze-epochs', '1', '--output', folder, '--experiment', 'run'])
    weights = dict(tasks[0].get_trainable_module().module.named_parameters())
    torch.save(weights, f'{folder}/{os.environ["RANK"]}.pth')


def test_trunk_is_released_in_two_processes(server, small_demo, tmp_path):
    """Its weights are then trained, to the same in both: the gradients are shared."""
    results = server.call_together(ranks_of_torchrun(), train_rank, str(tmp_path))
    assert [result.code for result in results] == [0, 0], results
    start = torch.load(tmp_path / 'run' / 'checkpoint-1.pth.tar', weights_only=True)['state_dict']
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert not torch.equal(start['stem.conv1.conv.weight'], first['stem.conv1.conv.weight'])
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize('opt', ['adamw', 'lookahead_sgd', 'muon'])
@pytest.mark.parametrize('layer_decay', [None, 0.5])
def test_rate_of_the_trunk(opt, layer_decay):
    """Each parameter is in one group, with the decay it had, and those of the trunk at a share of the rate."""
    model = timm.create_model('gkgnet_backbone', backbone='test_resnet', num_classes=3)
    config = TrainConfig(
        dataset='demo', data_dir='.', model='gkgnet_backbone', opt=opt, lr=0.1, layer_decay=layer_decay
    )
    rates = []
    for scale in (1, 0.25):
        optimizer = build.create_optimizer(config, model)
        if scale != 1:
            scale_trunk_rate(optimizer, model, scale)
        scheduler, _ = create_schedule(replace(config, warmup_epochs=0, sched='constant'), optimizer, 1)
        scheduler.step_update(1)
        groups = [(p, group) for group in optimizer.param_groups for p in group['params']]
        assert len(groups) == len(list(model.parameters()))
        rates.append({p: (group['lr'], group['weight_decay']) for p, group in groups})
        model(torch.randn(2, 3, 64, 64)).sum().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        share = 0.25 if name.startswith('backbone.') else 1
        (before, decay), (after, decay_after) = rates[0][parameter], rates[1][parameter]
        assert after == pytest.approx(before * share) and decay == decay_after, name
    assert max(rate for rate, _ in rates[1].values()) == pytest.approx(0.1)


def test_rate_of_the_trunk_of_a_run(small_demo, tmp_path, monkeypatch):
    """It hardly moves at a small share of the rate, the label branch does; the log shows the rate of the latter."""
    start, end = start_and_end(tmp_path, ['--data-dir', str(small_demo), '--backbone-lr-scale', '1e-4'], monkeypatch)
    moved = {True: 0.0, False: 0.0}
    for name, value in start.items():
        if name.endswith('weight'):
            is_head = name.startswith(('label_', 'head_'))
            moved[is_head] = max(moved[is_head], (value - end[name]).abs().max().item())
    assert moved[False] < 1e-4 < 1e-2 < moved[True]
    with (tmp_path / 'run' / 'summary.csv').open() as file:
        assert max(float(row['lr']) for row in csv.DictReader(file)) > 1e-3
