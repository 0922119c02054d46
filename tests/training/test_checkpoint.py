"""Checkpoints that survive a kill at any moment."""

import sys
import types

import pytest
import torch

from gkgnet_timm.training.checkpoint import SafeSaver


def test_resume_from_an_older_checkpoint_forgets_later_ones(tmp_path):
    task = types.SimpleNamespace(get_checkpoint_state=lambda ema=False, **_: {} if ema else {'state_dict': {}})
    arguments = dict(model=torch.nn.Identity(), optimizer=torch.optim.SGD([torch.zeros(1)], 0.1), task=task)
    saver = SafeSaver(**arguments, checkpoint_dir=str(tmp_path))
    for epoch, metric in enumerate((5.0, 4.0, 6.0)):
        saver.save_checkpoint(epoch, metric)
    saver = SafeSaver(**arguments, checkpoint_dir=str(tmp_path))
    saver.resume(str(tmp_path / 'checkpoint-2.pth.tar'))
    assert (saver.best_metric, saver.best_epoch) == (5.0, 0)
    assert torch.load(tmp_path / 'model_best.pth.tar')['epoch'] == 0


def test_kill_before_a_full_history_takes_the_best_epoch(tmp_path, monkeypatch):
    task = types.SimpleNamespace(get_checkpoint_state=lambda ema=False, **_: {} if ema else {'state_dict': {}})
    arguments = dict(model=torch.nn.Identity(), optimizer=torch.optim.SGD([torch.zeros(1)], 0.1), task=task)
    arguments.update(checkpoint_dir=str(tmp_path), max_history=2)
    saver = SafeSaver(**arguments)
    for epoch, metric in enumerate((5.0, 4.0)):
        saver.save_checkpoint(epoch, metric)
    with monkeypatch.context() as patch:
        patch.setattr(saver, '_cleanup_checkpoints', lambda trim: sys.exit())  # behind last, before all else
        with pytest.raises(SystemExit):
            saver.save_checkpoint(2, 6.0)
    saver = SafeSaver(**arguments)
    saver.resume(str(tmp_path / 'last.pth.tar'))
    assert (saver.best_metric, saver.best_epoch) == (6.0, 2)
    assert torch.load(tmp_path / 'model_best.pth.tar')['epoch'] == 2
    assert {path.name for path in tmp_path.glob('checkpoint-*')} == {'checkpoint-1.pth.tar', 'checkpoint-3.pth.tar'}
