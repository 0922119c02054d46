"""One pass over batches, against the same computed by hand."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from serving import ranks_of_torchrun

from gkgnet_timm.inference.device import Process, start_process
from gkgnet_timm.training.checkpoint import TrainTask
from gkgnet_timm.training.config import TrainConfig
from gkgnet_timm.training.epoch import train_one_epoch

CPU = torch.device('cpu')


def mean_square(logits, target):
    return (logits - target).square().mean()


def create_parts(batches=5):
    """A linear model, its optimizer with a rate of 0.1, and batches of 2."""
    generator = torch.Generator().manual_seed(0)
    loader = [(torch.randn(2, 4, generator=generator), torch.randn(2, 3, generator=generator)) for _ in range(batches)]
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    return model, torch.optim.SGD(model.parameters(), 0.1), loader


def train(model, optimizer, loader, epoch=0, process=None, criterion=mean_square, **kwargs):
    """Returns what an epoch returns, and the updates that its schedule was told of."""
    steps = []
    task = TrainTask(model, criterion, CPU, {})
    schedule = SimpleNamespace(step_update=steps.append)
    process = process or Process(CPU)
    config = TrainConfig('demo', **dict(clip_grad=0) | kwargs)
    return train_one_epoch(epoch, task, loader, optimizer, schedule, None, nullcontext, config, process), steps


@pytest.mark.parametrize('accum', [1, 2, 3, 5])
def test_updates_take_the_mean_of_their_batches(accum):
    """The last update may have fewer."""
    model, optimizer, loader = create_parts()
    expected = copy.deepcopy(model)
    losses = []
    for start in range(0, 5, accum):
        batches = loader[start : start + accum]
        losses.append([mean_square(expected(images), target) for images, target in batches])
        gradients = torch.autograd.grad(sum(losses[-1]) / len(batches), list(expected.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(expected.parameters(), gradients):
                parameter -= 0.1 * gradient
    metrics, steps = train(model, optimizer, loader, epoch=2, grad_accum_steps=accum)
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs)
    assert metrics == dict(loss=pytest.approx(sum(map(sum, losses)).item() / 5), lr=0.1, start=losses[0][0].item())
    assert steps == [2 * len(losses) + i + 1 for i in range(len(losses))]


@pytest.mark.parametrize('clip, mode', [(0.01, 'norm'), (0.01, 'value')])
def test_gradients_are_clipped(clip, mode):
    model, optimizer, loader = create_parts(1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, optimizer, loader, clip_grad=clip, clip_mode=mode)
    change = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before)]) / 0.1
    size = change.norm() if mode == 'norm' else change.abs().max()
    assert size.item() == pytest.approx(clip, rel=1e-3)


def train_rank_with_nan():
    """The loss of the second batch is nan in the last process: no process makes that update."""
    process = start_process('cpu')
    model, optimizer, loader = create_parts(2)
    expected, expected_optimizer, _ = create_parts(2)
    train(expected, expected_optimizer, loader[:1])
    loader[1][0].fill_(torch.nan if process.rank else 1.0)
    metrics, steps = train(model, optimizer, loader, process=process)
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        assert torch.equal(ours, theirs), process
    assert metrics['loss'] == metrics['loss'] and steps == [1, 2]


def test_loss_that_is_not_finite_in_one_of_two_processes(server):
    first, second = server.call_together(ranks_of_torchrun(), train_rank_with_nan)
    assert first.code == second.code == 0, (first, second)
    assert first.stdout.startswith('Skipped an update') and not second.stdout
