"""What happens during a run: losses that are not finite, averages, progress and logs."""

import re
import sys
import types
from datetime import datetime

import pytest
import torch
from runs import TINY, check_one_line, read_summary

from gkgnet_timm.__main__ import main as command
from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.inference.device import check_device, start_process
from gkgnet_timm.runtime import locked
from gkgnet_timm.training import build, run
from gkgnet_timm.training.config import TrainConfig
from gkgnet_timm.training.epoch import TrainingError
from gkgnet_timm.training.evaluate import EpochResult
from gkgnet_timm.training.logs import RunLog

pytestmark = pytest.mark.usefixtures('small_demo', 'no_curves')


def test_best_checkpoint_is_that_of_the_lowest_loss(tmp_path, capsys):
    flags = ['--lr', '1e-2', '--warmup-epochs', '0', '--eval-metric', 'loss', '--output', str(tmp_path)]
    train([*TINY, *flags, '--experiment', 'run'])
    losses = [float(row['eval_loss']) for row in read_summary(tmp_path / 'run')]
    best = min(losses)
    assert best < max(losses)
    assert torch.load(tmp_path / 'run' / 'model_best.pth.tar', weights_only=True)['metric'] == best
    assert f'Best loss {best:.4f} after epoch {losses.index(best) + 1}' in capsys.readouterr().out


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(run, 'datetime', types.SimpleNamespace(now=lambda: datetime(2020, 1, 2)))
    for _ in range(3):
        train([*TINY, '--epochs', '1', '--output', str(tmp_path)])
    name = '20200102-000000-gkgnet_ti_224-32'
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f'{name}-1', f'{name}-2']


def test_rate_of_each_epoch(tmp_path):
    flags = ['--epochs', '3', '--sched', 'step', '--decay-epochs', '1', '--no-sched-on-updates', '--warmup-epochs', '0']
    train([*TINY, *flags, '--output', str(tmp_path), '--experiment', 'run'])
    rates = [float(row['lr']) for row in read_summary(tmp_path / 'run')]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5])


@pytest.mark.parametrize('lr, warned', [('1e-3', False), ('10', True)])
def test_a_loss_that_explodes_is_said(lr, warned, tmp_path, capsys):
    train([*TINY, '--lr', lr, '--warmup-epochs', '0', '--sched', 'constant', '--output', str(tmp_path)])
    printed = capsys.readouterr().out
    message = r'Warning: the loss was \d\S* at first and is \d\S* in epoch [12]: --lr 10 is probably too high, try 1\.'
    assert bool(re.search(message, printed)) == warned and ('too high' in printed) == warned


def test_mixing_ends_before_its_epoch(tmp_path, monkeypatch):
    mixed = []

    def train_one_epoch(epoch, task, loader, *args, **kwargs):
        mixed.append(loader.loader.collate_fn.mixup is not None)
        return original(epoch, task, loader, *args, **kwargs)

    original = run.train_one_epoch
    monkeypatch.setattr(run, 'train_one_epoch', train_one_epoch)
    train([*TINY, '--epochs', '3', '--mixup', '1', '--mixup-off-epoch', '1', '--output', str(tmp_path)])
    assert mixed == [True, False, False]


def test_name_and_folder_of_a_run(tmp_path, capsys):
    """Without a name: time, model and size. With one: that is kept, and what another run has left stays."""
    flags = [*TINY, '--epochs', '1', '--output', str(tmp_path)]
    train(flags)
    (folder,) = tmp_path.iterdir()
    assert re.fullmatch(r'\d{8}-\d{6}-gkgnet_ti_224-32', folder.name)
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    check_one_line(['train', *flags, '--experiment', folder.name], 'has last.pth.tar of another run.*--resume', capsys)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left
    with locked(folder, 'train'):
        check_one_line(['train', *flags, '--experiment', folder.name], 'Another train is at work', capsys)
    for name in ('last.pth.tar', 'model_best.pth.tar', 'summary.csv'):
        (folder / name).unlink()
    (folder / 'bad_images.txt').write_text('a.png\n')
    (folder / 'tmp.pth.tar').write_text('half a checkpoint')
    train([*flags, '--experiment', folder.name])
    assert not {'bad_images.txt', 'tmp.pth.tar', '.train.lock'} & {path.name for path in folder.iterdir()}


def test_average_that_is_not_evaluated(tmp_path, capsys):
    metrics = train([*TINY, '--model-ema', '--model-ema-force-cpu', '--output', str(tmp_path), '--experiment', 'run'])
    assert '--use-ema' not in capsys.readouterr().out
    assert validate(['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0'])['mAP'] == metrics['mAP']


def test_warmup_of_the_average(tmp_path):
    """Its decay starts at a low value, so that the average soon leaves the weights of the start behind."""
    distances = []
    for warmup in (['--no-model-ema-warmup'], []):
        flags = ['--epochs', '1', '--lr', '1e-2', '--warmup-epochs', '0', '--model-ema', '--model-ema-decay', '0.9999']
        train([*TINY, *flags, *warmup, '--output', str(tmp_path), '--experiment', f'run{len(distances)}'])
        state = torch.load(tmp_path / f'run{len(distances)}' / 'last.pth.tar', weights_only=True)
        weights, average = (state[name]['head_patch.weight'] for name in ('state_dict', 'state_dict_ema'))
        distances.append((weights - average).norm().item())
    assert 0 < distances[1] < 0.7 * distances[0]


def test_model_that_diverges(tmp_path):
    flags = ['--lr', '1e30', '--clip-grad', '0', '--warmup-epochs', '0', '--max-bad-steps', '100']
    with pytest.raises(TrainingError, match='Epoch 1 cannot be evaluated.*nan.*--lr'):
        train([*TINY, *flags, '--output', str(tmp_path)])


class Diverging(torch.nn.Module):
    """A loss that is nan at some calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.count = calls, 0

    def forward(self, logits, target):
        self.count += 1
        return logits.mean() * (torch.nan if self.count in self.calls else 1)


@pytest.mark.parametrize('accum', ['1', '2'])
def test_loss_that_is_not_finite(accum, tmp_path, monkeypatch, capsys):
    flags = [*TINY, '-b', '4', '--output', str(tmp_path), '--experiment', 'run', '--max-bad-steps', '1']
    flags += ['--grad-accum-steps', accum]
    monkeypatch.setattr(build, 'create_criterion', lambda *_: Diverging({2}))
    train(flags)  # 5 batches an epoch
    assert capsys.readouterr().out.count('Skipped an update: the loss is nan at epoch 1') == 1
    monkeypatch.setattr(build, 'create_criterion', lambda *_: Diverging({7, 9}))
    with pytest.raises(SystemExit):
        command(['train', *flags, '--experiment', 'second'])
    assert re.search('loss is nan at epoch 2, update .*checkpoint is kept', capsys.readouterr().err)
    state = torch.load(tmp_path / 'second' / 'last.pth.tar', weights_only=False)
    assert state['epoch'] == 0 and all(value.isfinite().all() for value in state['state_dict'].values())


def test_skipped_update_leaves_no_trace(tmp_path, monkeypatch):
    """The running statistics that the bad forward pass has spoiled are those of before."""

    class Spoiling(Diverging):
        def forward(self, logits, target):
            loss = super().forward(logits, target)
            if self.count in self.calls:
                for module in task.get_trainable_module().modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.running_mean.fill_(torch.nan)
            return loss

    create_task = run.create_task

    def spoiled_task(*args, **kwargs):
        nonlocal task
        task = create_task(*args, **kwargs)
        task.criterion = Spoiling({1})
        return task

    task = None
    monkeypatch.setattr(run, 'create_task', spoiled_task)
    metrics = train([*TINY, '--epochs', '1', '--output', str(tmp_path)])
    assert metrics['loss'] == metrics['loss']


def start_wandb(monkeypatch):
    """Replace Weights & Biases; returns the arguments of its runs and the rows that it gets."""
    rows, runs = [], []
    wandb = types.SimpleNamespace(init=lambda **kwargs: runs.append(kwargs), log=rows.append)
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    return runs, rows


def test_wandb_by_flag(tmp_path, monkeypatch):
    flags = [*TINY, '--output', str(tmp_path), '--experiment', 'run', '--log-wandb', '--wandb-project', 'shapes']
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ValueError, match='pip install wandb'):
        train(flags)
    runs, rows = start_wandb(monkeypatch)
    train(flags)
    assert runs[0]['project'] == 'shapes' and runs[0]['name'] == 'run' and runs[0]['config']['epochs'] == 2
    assert [row['epoch'] for row in rows] == [1, 2] and 'eval_mAP' in rows[0]


def test_wandb_run_is_fresh_unless_resumed(tmp_path, monkeypatch):
    runs, rows = start_wandb(monkeypatch)
    flags = [*TINY, '--output', str(tmp_path), '--experiment', 'run', '--log-wandb']
    train(flags)
    train([*flags, '--experiment', 'again'])
    last = tmp_path / 'again' / 'last.pth.tar'
    train(['--resume', str(last), '--epochs', '3', '--device', 'cpu'])
    train([*flags, '--experiment', 'other'])
    first, second, resumed, other = (run['id'] for run in runs)
    assert second == resumed == torch.load(last, weights_only=True)['wandb_id']
    assert len({first, second, other}) == 3 and all(run['resume'] == 'allow' for run in runs)
    assert [row['epoch'] for row in rows] == [1, 2, 1, 2, 3, 1, 2]


def test_tensorboard_by_flag(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = [*TINY, '--output', str(tmp_path), '--experiment', 'run', '--log-tensorboard', '--epochs', '3']
    train([*flags, '--model-ema'])
    train(['--resume', str(tmp_path / 'run' / 'checkpoint-2.pth.tar'), '--device', 'cpu'])  # epoch 3 once more
    events = EventAccumulator(str(tmp_path / 'run' / 'tensorboard')).Reload()
    rows = read_summary(tmp_path / 'run')
    for tag, column in (('train/loss', 'train_loss'), ('eval/mAP', 'eval_mAP'), ('eval/loss', 'eval_loss')):
        expected = [(epoch, pytest.approx(float(row[column]), rel=1e-6)) for epoch, row in enumerate(rows, 1)]
        assert [(event.step, event.value) for event in events.Scalars(tag)] == expected
    assert [event.step for event in events.Scalars('lr')] == [1, 2, 3]
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(ValueError, match=r"pip install 'gkgnet-timm\[tensorboard\]'"):
        train([*flags, '--experiment', 'other'])


def test_summary_takes_columns_of_another_version(tmp_path):
    """A run that goes on with other columns than it had keeps every value under its name."""
    path = tmp_path / 'summary.csv'
    path.write_text('epoch,train_loss,lr\n1,9.0,0.1\n')
    log = RunLog(TrainConfig('demo'), tmp_path, first_epoch=1)
    log.write(1, dict(loss=8.0), EpochResult('raw', dict(mAP=50.0), 7.0), lr=0.2, best_epoch=1)
    log.write(2, dict(loss=6.0), EpochResult('average', dict(mAP=60.0), 5.0), lr=0.3, best_epoch=2)
    assert [list(row.values()) for row in read_summary(tmp_path)] == [
        ['1', '9.0', '0.1', '', '', '', ''],
        ['2', '8.0', '0.2', '50.0', '7.0', 'raw', '2'],
        ['3', '6.0', '0.3', '60.0', '5.0', 'average', '3'],
    ]


@pytest.mark.parametrize('name', ['adahessian', 'lookahead_adahessian'])
def test_optimizer_of_second_order(name, tmp_path, capsys):
    message = f"^error: --opt '{name}' needs second derivatives, .*: give one such as adamw.$"
    check_one_line(['train', *TINY, '--opt', name, '--output', str(tmp_path)], message, capsys)


@pytest.mark.parametrize('choose', [check_device, start_process])
def test_device_that_is_not_here(choose, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    with pytest.raises(ValueError, match="^--device 'mps': this machine or this PyTorch has no MPS, give cpu.$"):
        choose('mps')
    with pytest.raises(ValueError, match="^--device 'gpu' is unknown, expected such as cpu, cuda, cuda:1 or mps.$"):
        choose('gpu')


def test_training_on_a_device_that_is_not_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    check_one_line(['train', *TINY, '--device', 'mps', '--output', str(tmp_path / 'out')], 'has no MPS', capsys)
    assert not (tmp_path / 'out').exists()


def test_resume_on_a_table_of_another_meaning(small_demo, tmp_path, capsys):
    folder = small_demo / 'train'
    files = sorted(path.name for path in folder.glob('*.*'))
    rows = ''.join(f'{name},{i % 2 * 2 - 1},{1 - i % 2 * 2}\n' for i, name in enumerate(files))
    for name in ('train.csv', 'val.csv'):
        (tmp_path / name).write_text(f'file,cat,dog\n{rows}')
    flags = ['--dataset', 'csv', '--data-dir', str(folder), '--train-split', str(tmp_path / 'train.csv')]
    flags += ['--val-split', str(tmp_path / 'val.csv'), '--allow-same-split', '--output', str(tmp_path)]
    train([*TINY, *flags, '--experiment', 'run'])
    last = str(tmp_path / 'run' / 'last.pth.tar')
    for name in ('train.csv', 'val.csv'):
        (tmp_path / name).write_text(f'file,cat,dog\n{rows}'.replace(',-1\n', ',0\n'))
    message = "'minus': 'absent'.*, not .*'minus': 'unknown'"
    check_one_line(['train', '--resume', last, '--epochs', '3', '--device', 'cpu'], message, capsys)
