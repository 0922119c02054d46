"""Learning rates and weight decay of the published training."""

import pytest
import torch

import timm
from timm.optim import create_optimizer_v2, optimizer_kwargs

from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.training.schedule import create_schedule

PUBLISHED = ['-c', 'coco2014_576', '--data-dir', 'x']


def learning_rates(argv, updates):
    """Learning rate of each update of a training, stepped as the training does, and the number of epochs."""
    config, _ = parse_flags(argv)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler, epochs = create_schedule(config, optimizer, updates)
    scheduler.step_update(0)
    scheduler.step(0)
    rates = []
    for epoch in range(epochs):
        for update in range(updates):
            rates.append(optimizer.param_groups[0]['lr'])
            scheduler.step_update(epoch * updates + update + 1)
        scheduler.step(epoch + 1)
    return rates, epochs


def test_published_learning_rates():
    rates, epochs = learning_rates(PUBLISHED, 100)
    assert epochs == 80 and len(rates) == 8000
    table = {0: 1e-7, 1: 2.998e-7, 250: 5.005e-5, 499: 9.98002e-5, 500: 1e-4, 999: 1e-4, 1000: 1e-5, 4999: 1e-5}
    table |= {5000: 1e-6, 7999: 1e-6}
    assert {i: rates[i] for i in table} == pytest.approx(table, rel=1e-9)
    for i, rate in enumerate(rates):
        expected = (
            1e-4 * (1 - (1 - i / 500) * (1 - 0.001)) if i < 500 else 1e-4 * 0.1 ** sum(i >= t for t in (1000, 5000))
        )
        assert rate == pytest.approx(expected, rel=1e-9), i


@pytest.mark.parametrize('updates', [1, 3, 647])
def test_milestones_are_the_first_epochs_at_the_lower_rate(updates):
    for flag in ('--sched-on-updates', '--no-sched-on-updates'):
        rates, _ = learning_rates([*PUBLISHED, flag, '--warmup-epochs', '0', '--epochs', '52'], updates)
        by_epoch = [set(rates[epoch * updates : (epoch + 1) * updates]) for epoch in range(52)]
        expected = [1e-4] * 10 + [1e-5] * 40 + [1e-6] * 2
        assert all(len(rate) == 1 for rate in by_epoch)
        assert [rate.pop() for rate in by_epoch] == pytest.approx(expected)


def test_epochwise_warmup():
    rates, _ = learning_rates([*PUBLISHED, '--no-sched-on-updates', '--epochs', '12'], 2)
    warmup = [1e-7 + (1e-4 - 1e-7) * epoch / 5 for epoch in range(5)]
    assert rates[::2] == pytest.approx(warmup + [1e-4] * 5 + [1e-5] * 2) and rates[::2] == rates[1::2]


def test_default_is_a_cosine_behind_one_epoch_of_warmup():
    rates, epochs = learning_rates(['--dataset', 'coco', '--data-dir', 'x', '--lr', '1'], 10)
    assert epochs == 30
    assert rates[:10] == pytest.approx([1e-7 + i / 10 for i in range(10)], abs=2e-7)
    assert all(a > b for a, b in zip(rates[10:], rates[11:])) and 0 < rates[-1] < 1e-4


def test_published_weight_decay():
    config, _ = parse_flags(PUBLISHED)
    model = timm.create_model(config.model, num_classes=80)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(config))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {0.05: set(), 0.0: set()}
    for group in optimizer.param_groups:
        groups[group['weight_decay']].update(group['params'])
        assert (group['lr'], group['betas'], group['eps']) == (1e-4, (0.9, 0.999), 1e-8)
    assert isinstance(optimizer, torch.optim.AdamW)
    sizes = {decay: (len(group), sum(p.numel() for p in group)) for decay, group in groups.items()}
    assert sizes == {0.05: (93, 34_520_760), 0.0: (263, 152_440)}
    assert groups[0.05] == {p for p in names if p.ndim > 1}
    assert {'stem.pos_embed', 'label_embed.weight'} <= {names[p] for p in groups[0.05]}


def test_rates_end_at_the_lowest_one_and_stay_there():
    flags = ['--dataset', 'coco', '--data-dir', 'x', '--lr', '1', '--epochs', '4', '--min-lr', '0.1']
    rates, epochs = learning_rates(flags, 5)
    assert epochs == 4 and min(rates[5:]) > 0.1
    cooled, epochs = learning_rates([*flags, '--cooldown-epochs', '2'], 5)
    assert epochs == 6 and cooled[:20] == rates and set(cooled[20:]) == {0.1}
