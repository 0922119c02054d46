"""How the files of a run count epochs, and how a run of an earlier version, which counted them from 0, goes on."""

import csv
import shutil

import pytest
import torch
from runs import TINY, read_summary

from gkgnet_timm.commands.train import main as train
from gkgnet_timm.weights.file import read_training

pytestmark = pytest.mark.usefixtures('small_demo', 'no_curves')


def to_earlier_layout(folder):
    """Bring the folder of a run to what an earlier version would have left."""
    for path in sorted(folder.glob('*.pth.tar')):
        state = torch.load(path, weights_only=True)
        saver = state['saver']
        del saver['layout']
        saver['checkpoint_files'] = [
            (f'checkpoint-{int(name[11:-8]) - 1}.pth.tar', metric) for name, metric in saver['checkpoint_files']
        ]
        if state['args']['eval_metric'] == 'bce':
            state['args']['eval_metric'] = 'loss'
        path.unlink()
        torch.save(
            state, path if path.name[:5] in ('last.', 'model') else folder / f'checkpoint-{state["epoch"]}.pth.tar'
        )
    header, *rows = list(csv.reader((folder / 'summary.csv').open(newline='')))
    names = dict(eval_loss='eval_criterion', eval_bce='eval_loss')
    with open(folder / 'summary.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(names.get(name, name) for name in header)
        writer.writerows([str(int(row[0]) - 1), *row[1:]] for row in rows)


@pytest.mark.parametrize('metric', ['mAP', 'bce'])
def test_run_of_an_earlier_version_goes_on(metric, tmp_path, capsys):
    """Its summary counts epochs from 1 then; its checkpoints keep their names, and new ones do not replace them."""
    flags = [*TINY, '--eval-metric', metric, '--output', str(tmp_path), '--checkpoint-hist', '5']
    train([*flags, '--epochs', '2', '--experiment', 'run'])
    shutil.copytree(tmp_path / 'run', tmp_path / 'new')
    to_earlier_layout(tmp_path / 'run')
    assert (tmp_path / 'run' / 'checkpoint-0.pth.tar').is_file()
    for name in ('new', 'run'):
        train(['--resume', str(tmp_path / name / 'last.pth.tar'), '--epochs', '4', '--device', 'cpu'])
    assert 'keep their names, which count epochs from 0: checkpoint-0.pth.tar, checkpoint-1.pth.tar.' in (
        capsys.readouterr().out
    )
    summaries = [read_summary(tmp_path / name) for name in ('new', 'run')]
    assert summaries[0] == summaries[1] and [row['epoch'] for row in summaries[1]] == ['1', '2', '3', '4']
    epochs = {
        path.name: torch.load(path, weights_only=True)['epoch'] for path in (tmp_path / 'run').glob('checkpoint-*')
    }
    assert epochs == {f'checkpoint-{number}.pth.tar': epoch for number, epoch in ((0, 0), (1, 1), (3, 2), (4, 3))}
    best = [torch.load(tmp_path / name / 'model_best.pth.tar', weights_only=True) for name in ('new', 'run')]
    assert best[0]['epoch'] == best[1]['epoch'] == int(summaries[0][-1]['best_epoch']) - 1
    assert (
        best[0]['metric'] == best[1]['metric']
        and read_training(tmp_path / 'run' / 'last.pth.tar').config['eval_metric'] == metric
    )
    capsys.readouterr()
    train(['--resume', str(tmp_path / 'run' / 'last.pth.tar'), '--device', 'cpu'])
    assert 'keep their names' not in capsys.readouterr().out


def test_files_of_a_run_count_epochs_as_the_screen_does(tmp_path, capsys):
    metrics = train([*TINY, '--epochs', '3', '--output', str(tmp_path), '--experiment', 'run'])
    rows, printed = read_summary(tmp_path / 'run'), capsys.readouterr().out
    assert [row['epoch'] for row in rows] == ['1', '2', '3'] and metrics['mAP'] == float(rows[-1]['eval_mAP'])
    for row in rows:
        assert f'epoch {row["epoch"]}: mAP {float(row["eval_mAP"]):.2f} ' in printed
        state = torch.load(tmp_path / 'run' / f'checkpoint-{row["epoch"]}.pth.tar', weights_only=True)
        assert state['metric'] == float(row['eval_mAP'])
        so_far = rows[: int(row['epoch'])]
        assert row['best_epoch'] == max(so_far, key=lambda other: float(other['eval_mAP']))['epoch']
    assert f'after epoch {rows[-1]["best_epoch"]}: ' in printed
