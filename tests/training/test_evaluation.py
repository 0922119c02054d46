"""Evaluation in training: which weights are the best, when a run stops, and on which images."""

import re

import numpy as np
import pytest
import torch
from runs import TINY, check_one_line, read_summary

from gkgnet_timm.commands.train import main as train
from gkgnet_timm.commands.train import parse_flags
from gkgnet_timm.commands.validate import main as validate
from gkgnet_timm.data.splits import open_split
from gkgnet_timm.training import evaluate
from gkgnet_timm.training.checkpoint import SafeSaver
from gkgnet_timm.training.evaluate import EpochResult
from gkgnet_timm.weights.file import read_training

pytestmark = pytest.mark.usefixtures('small_demo', 'no_curves')


def plan(monkeypatch, figures):
    """Let evaluation give these figures in place of its own: {weights: one for each epoch}."""

    def evaluate_planned(epoch, task, loader, autocast, config, process, weights):
        value = figures[weights][epoch]
        return EpochResult(weights, dict.fromkeys(('mAP', 'loss'), value), value / 10)

    monkeypatch.setattr(evaluate, '_evaluate', evaluate_planned)


@pytest.mark.parametrize(
    'metric, raw, average, epoch, weights',
    [
        ('mAP', [30.0, 33.2, 31.0], [20.0, 27.9, 33.0], 1, 'raw'),
        ('mAP', [30.0, 33.2, 31.0], [20.0, 27.9, 33.3], 2, 'average'),
        ('mAP', [30.0, 30.0, 30.0], [30.0, 29.0, 30.0], 0, 'raw'),
        ('loss', [3.0, 2.0, 2.5], [9.0, 1.9, 2.0], 1, 'average'),
    ],
)
def test_best_checkpoint_is_that_of_the_better_weights(
    metric, raw, average, epoch, weights, tmp_path, monkeypatch, capsys
):
    plan(monkeypatch, dict(raw=raw, average=average))
    flags = ['--epochs', '3', '--model-ema', '--eval-metric', metric, '--output', str(tmp_path), '--experiment', 'run']
    metrics = train([*TINY, *flags])
    choose = max if metric == 'mAP' else min
    better = [choose(pair) for pair in zip(raw, average)]
    assert metrics[metric] == better[-1]
    path = tmp_path / 'run' / 'model_best.pth.tar'
    best = torch.load(path, weights_only=True)
    assert (best['epoch'], best['metric'], best['best_weights']) == (epoch, better[epoch], weights)
    assert read_training(path).best_weights == weights
    rows = read_summary(tmp_path / 'run')
    assert [float(row[f'eval_{metric}']) for row in rows] == better
    which = ['raw' if value == a else 'average' for value, a in zip(better, raw)]
    assert [row['eval_weights'] for row in rows] == which
    named = 'raw weights' if weights == 'raw' else 'average of the weights'
    printed = capsys.readouterr().out
    assert f'Best {metric} {better[epoch]:.4f} after epoch {epoch + 1}, {named}: {path}' in printed
    assert '--use-ema' not in printed


def test_validation_loss_is_that_of_training(tmp_path):
    """Over the images of evaluation, with the weights of the end."""
    flags = ['--epochs', '1', '--loss', 'bce', '--output', str(tmp_path), '--experiment', 'run']
    metrics = train([*TINY, *flags])
    (row,) = read_summary(tmp_path / 'run')
    assert float(row['eval_loss']) == metrics['loss'] == pytest.approx(metrics['bce'], rel=1e-6)
    assert float(row['eval_loss']) != float(row['train_loss'])
    scores = tmp_path / 'scores.npz'
    metrics = train([*TINY, *flags, '--experiment', 'other', '--loss', 'asl', '--smoothing', '0'])
    (row,) = read_summary(tmp_path / 'other')
    validate(['--checkpoint', str(tmp_path / 'other' / 'last.pth.tar'), '-j', '0', '--scores-out', str(scores)])
    with np.load(scores) as stored:
        p, y = stored['scores'], stored['targets'] > 0
    q = np.minimum(1 - p + 0.05, 1)  # asymmetric loss with gamma 1 and 4
    losses = np.where(y, -(1 - p) * np.log(p), -((1 - q) ** 4) * np.log(q))
    assert float(row['eval_loss']) == metrics['loss'] == pytest.approx(losses.sum(axis=1).mean(), rel=1e-4)
    assert metrics['loss'] != pytest.approx(metrics['bce'], rel=0.1)
    assert float(row['eval_bce']) == metrics['bce'] and float(row['eval_chance']) == pytest.approx(17.045, abs=0.01)


@pytest.mark.parametrize('patience, raw, done', [(1, [5, 6, 6, 7], 3), (2, [5, 4, 3, 9], 3), (3, [5, 4, 3, 9], 4)])
def test_run_without_progress_stops(patience, raw, done, tmp_path, monkeypatch, capsys):
    plan(monkeypatch, dict(raw=raw))
    flags = [*TINY, '--epochs', '4', '--patience', str(patience), '--output', str(tmp_path), '--experiment', 'run']
    train(flags)
    assert len(read_summary(tmp_path / 'run')) == done
    message = f'Stopped after epoch {done}: no better mAP for {patience} epochs'
    assert (message in capsys.readouterr().out) == (done < 4)
    before = (tmp_path / 'run' / 'last.pth.tar').read_bytes()
    train([*flags, '--resume', 'auto'])  # it stays where it is
    assert (tmp_path / 'run' / 'last.pth.tar').read_bytes() == before
    assert 'Best mAP' in capsys.readouterr().out


@pytest.fixture
def table(small_demo, tmp_path):
    """A table of 19 images with one label or none, of which 'rare' has two images; flags to train on it."""
    names = sorted(path.name for path in (small_demo / 'train').glob('*.png'))
    labels = ['rare'] * 2 + ['a'] * 8 + ['b'] * 6 + [''] * 3
    rows = ''.join(f'{name},{label}\n' for name, label in zip(names, labels))
    (tmp_path / 'table.csv').write_text(f'image,labels\n{rows}')
    flags = ['--dataset', 'csv', '--data-dir', str(small_demo / 'train'), '--train-split', str(tmp_path / 'table.csv')]
    return [*TINY, *flags, '--output', str(tmp_path), '--experiment', 'run'], dict(zip(names, labels))


@pytest.mark.parametrize('unknown', ['ignore', 'negative', 'positive'])
def test_figures_of_a_held_out_part_are_those_of_validate(unknown, small_demo, tmp_path, capsys):
    pytest.importorskip('iterstrat')
    names = sorted(path.name for path in (small_demo / 'train').glob('*.png'))
    rows = ''.join(f'{name},{i % 3 - 1},{(i + 1) % 3 - 1}\n' for i, name in enumerate(names))
    (tmp_path / 'table.csv').write_text(f'image,a,b\n{rows}')
    flags = ['--dataset', 'csv', '--data-dir', str(small_demo / 'train'), '--train-split', str(tmp_path / 'table.csv')]
    flags += ['--val-fraction', '0.4', '--unknown-labels', unknown, '--output', str(tmp_path), '--experiment', 'run']
    metrics = train([*TINY, *flags, '--epochs', '1'])
    last = str(tmp_path / 'run' / 'last.pth.tar')
    chance = re.search(r'chance (\d+\.\d+)', capsys.readouterr().out)[1]
    result = validate(['--checkpoint', last, '-j', '0'])
    assert result['mAP'] == metrics['mAP'] and f'{result["chance"]:.2f}' == chance
    message = 'was trained with --val-fraction 0.4, this run has 0.5'
    check_one_line(['train', '--resume', last, '--val-fraction', '0.5', '--device', 'cpu'], message, capsys)


class Killed(Exception):
    pass


def kill_after(epoch, monkeypatch):
    save = SafeSaver.save_checkpoint

    def save_and_die(saver, number, metric=None):
        save(saver, number, metric)
        if number == epoch:
            raise Killed

    monkeypatch.setattr(SafeSaver, 'save_checkpoint', save_and_die)


def test_part_of_the_training_split_is_held_out(table, tmp_path, capsys, monkeypatch):
    pytest.importorskip('iterstrat')
    flags, labels = table
    flags += ['--val-fraction', '0.25', '--epochs', '3', '--model-ema', '--freeze', 'trunk', '--freeze-epochs', '2']
    metrics = train(flags)
    printed = capsys.readouterr().out
    path = tmp_path / 'run' / 'last.pth.tar'
    held_out = read_training(path).held_out
    assert len(held_out) == 5 and {labels[name] for name in held_out} == {'rare', 'a', 'b', ''}
    assert 'table.csv, to train on: 14 images' in printed and 'table.csv, held out: 5 images' in printed
    result = validate(['--checkpoint', str(path), '-j', '0', '--scores-out', str(tmp_path / 'scores.npz')])
    assert 'as held out by the training: 5 images' in capsys.readouterr().out and 'warning' not in result
    with np.load(tmp_path / 'scores.npz') as scores:
        assert sorted(scores['files'].tolist()) == sorted(held_out)
    assert result['mAP'] == metrics['mAP'] and result['images'] == 5
    whole = validate(['--checkpoint', str(path), '-j', '0', '--split', str(tmp_path / 'table.csv')])
    assert whole['images'] == 19 and 'images of training' in whole['warning']

    (tmp_path / 'run').rename(tmp_path / 'whole')  # a killed run goes on to the same end, with the same images
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(1, patch)
        train(flags)
    monkeypatch.setattr('gkgnet_timm.data.splits.stratify', None)  # it chooses no images anew
    train(['--resume', str(tmp_path / 'run' / 'last.pth.tar'), '--device', 'cpu'])
    first, second = (torch.load(tmp_path / name / 'last.pth.tar', weights_only=True) for name in ('whole', 'run'))
    assert first['held_out'] == second['held_out'] and first['metric'] == second['metric']
    for part in ('state_dict', 'state_dict_ema'):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items())
    rows = [(tmp_path / name / 'summary.csv').read_text() for name in ('whole', 'run')]
    assert rows[0] == rows[1]

    content = (tmp_path / 'table.csv').read_text().replace(held_out[0], 'renamed.png')
    (tmp_path / 'table.csv').write_text(content)
    check_one_line(
        ['validate', '--checkpoint', str(path), '--on-bad-image', 'skip'], f"1 of the 5 .*'{held_out[0]}'", capsys
    )


def test_training_without_evaluation(table, tmp_path, capsys):
    flags, _ = table
    assert train([*flags, '--no-val', '--model-ema']) == {}
    printed = capsys.readouterr().out
    last = tmp_path / 'run' / 'last.pth.tar'
    assert f'the result is the last checkpoint: {last}' in printed and 'mAP' not in printed
    assert not (tmp_path / 'run' / 'model_best.pth.tar').exists()
    state = torch.load(last, weights_only=True)
    assert state['epoch'] == 1 and 'best_weights' not in state and 'metric' not in state
    assert read_summary(tmp_path / 'run')[1].keys() == {'epoch', 'train_loss', 'lr'}
    assert f'validate --checkpoint {last} --split NAME' in printed and 'To evaluate it: ' in printed
    check_one_line(['validate', '--checkpoint', str(last)], 'trained without evaluation, give --split NAME', capsys)
    train(['--resume', str(last), '--epochs', '3', '--device', 'cpu'])
    assert torch.load(last, weights_only=True)['epoch'] == 2
    assert len(read_summary(tmp_path / 'run')) == 3


@pytest.mark.parametrize('evaluation', [['--val-fraction', '0.25'], ['--no-val']])
def test_rows_of_the_table_of_a_training_without_an_evaluation_split(evaluation, table, tmp_path, capsys):
    pytest.importorskip('iterstrat')
    flags, labels = table
    parts = ['train', 'train', 'val'] * 6 + ['train']
    rows = ''.join(f'{name},{label},{part}\n' for (name, label), part in zip(labels.items(), parts))
    (tmp_path / 'table.csv').write_text(f'image,labels,part\n{rows}')
    flags += ['--label-column', 'labels', '--epochs', '1', '-b', '5', *evaluation]
    argv = ['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0', '--where', 'part=val']
    train([*flags, '--train-where', 'part=train'])
    result = validate(argv)
    assert result['images'] == 6 and 'warning' not in result
    assert 'table.csv: 6 images' in capsys.readouterr().out
    (tmp_path / 'run').rename(tmp_path / 'other')
    train(flags)  # of all rows
    result = validate(argv)
    assert result['images'] == 6 and 'images of training' in result['warning']
    check_one_line(['validate', *argv[:-1], 'part=test'], "no row has 'test' in column 'part'", capsys)


def test_training_images_are_evaluated_on_request_only(table, tmp_path, capsys):
    flags, _ = table
    flags += ['--val-split', str(tmp_path / 'table.csv')]
    check_one_line(['train', *flags], '--val-fraction 0.2 .*--no-val.*--allow-same-split', capsys)
    train([*flags, '--allow-same-split'])
    printed = capsys.readouterr().out
    assert printed.count('on the images of training') == 2 and 'Warning: these are the images of training' in printed
    result = validate(['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0'])
    assert 'these are the images of training' in result['warning'] and result['warning'] in capsys.readouterr().out
    other = open_split('demo', split='val', verbose=False)
    rows = ''.join(f'{other.filename(row, absolute=True).rpartition("/")[2]},a\n' for row in range(3))
    (tmp_path / 'other.csv').write_text(f'image,labels\n{rows}')
    argv = ['--checkpoint', str(tmp_path / 'run' / 'last.pth.tar'), '-j', '0', '--split', str(tmp_path / 'other.csv')]
    assert 'warning' not in validate(argv)


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--val-fraction 0.2 --val-split x.csv', '--val-fraction and --val-split are different ways'),
        ('--val-fraction 0.2 --no-val', '--val-fraction and --no-val are different ways'),
        ('--no-val --val-where a=b', '--no-val and --val-where are different ways'),
        ('--no-val --allow-same-split', '--no-val and --allow-same-split are different ways'),
        ('--no-val --patience 2', '--patience needs the figures of an evaluation'),
        ('--val-fraction 1', '--val-fraction must be between 0 and 1, got 1.0'),
        ('--val-fraction nan', '--val-fraction must be a finite number'),
        ('--freeze-epochs 2', '--freeze-epochs says for how long to freeze: give --freeze trunk'),
    ],
)
def test_ways_to_evaluate_that_contradict(flags, message, capsys):
    check_one_line(['train', *TINY, *flags.split()], message, capsys)


def test_flags_win_over_the_evaluation_of_a_config():
    for flags in (['--no-val'], ['--val-fraction', '0.1']):
        config, _ = parse_flags(['-c', 'coco2014_576', '--data-dir', 'x', *flags])
        assert config.val_split is None and config.train_split == 'train2014'
