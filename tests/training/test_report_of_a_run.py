"""The report at the end of a run."""

import json
import re

import pytest
from runs import TINY, read_summary

from gkgnet_timm.commands.train import main as train
from gkgnet_timm.training import report

pytestmark = pytest.mark.usefixtures('no_curves')


def figures_of(page):
    data = re.search('<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return {figure['name']: figure['value'] for figure in json.loads(data[1])['figures']}


def test_run_ends_with_the_report_of_its_best_checkpoint(small_demo, tmp_path, capsys):
    flags = [*TINY, '--output', str(tmp_path), '--experiment', 'run', '--report']
    train([*flags, '--epochs', '1'])
    page = tmp_path / 'run' / 'report' / 'index.html'
    assert f'Report: {page}' in capsys.readouterr().out
    page.unlink()
    train(['--resume', str(tmp_path / 'run'), '--epochs', '2', '--device', 'cpu'])  # the flag is that of the checkpoint
    best = max(float(row['eval_mAP']) for row in read_summary(tmp_path / 'run'))
    assert figures_of(page)['mAP'] == f'{best:.1f}'


def test_run_is_not_lost_with_its_report(small_demo, tmp_path, capsys, monkeypatch):
    def fail(*args):
        raise OSError('No space left\non device')

    monkeypatch.setattr(report, 'write_report', fail)
    flags = ['--epochs', '1', '--output', str(tmp_path), '--experiment', 'run', '--report']
    assert train([*TINY, *flags])['mAP'] > 0
    printed = capsys.readouterr().out
    assert 'The report was not written: OSError: No space left on device\n' in printed and 'Report:' not in printed


def test_report_needs_an_evaluation():
    with pytest.raises(ValueError, match='--report shows an evaluation: leave out --no-val'):
        train([*TINY, '--no-val', '--report'])
