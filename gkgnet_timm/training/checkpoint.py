"""Checkpoints that survive a kill at any moment, and how a run continues from one."""

import argparse
import os
import shutil
from pathlib import Path
from typing import Optional

import torch

from timm.task import TrainingTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, NativeScaler, load_checkpoint_metadata, trim_summary

from ..weights.file import read_checkpoint_args

__all__ = ['SafeSaver', 'resume_run', 'trim_summary_file']


class SafeSaver(CheckpointSaver):
    """timm's saver, whose files are at any moment there in full: as they were, or new.

    A file is written and synced under another name before it takes the name of the previous one. timm's own removes
    that first.
    """

    def _save(self, save_path: str, epoch: int, metric: Optional[float] = None) -> None:
        try:
            super()._save(save_path, epoch, metric)
            with open(save_path, 'rb') as file:
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            Path(save_path).unlink(missing_ok=True)
            last = os.path.join(self.checkpoint_dir, 'last' + self.extension)
            remedy = f'continue with --resume {last}' if os.path.exists(last) else 'start again'
            raise OSError(
                f'Cannot write the checkpoint of epoch {epoch + 1} to {self.checkpoint_dir!r}, is the disk full? Make '
                f'room and {remedy}. ({str(error).splitlines()[0]})'
            ) from error

    def _replace(self, src: str, dst: str) -> None:
        os.replace(src, dst)
        folder = os.open(os.path.dirname(dst) or '.', os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _duplicate(self, src: str, dst: str) -> None:
        draft = f'{dst}.tmp'
        Path(draft).unlink(missing_ok=True)
        try:
            os.link(src, draft)
        except OSError:  # a file system without links
            shutil.copy2(src, draft)
        os.replace(draft, dst)
        Path(draft).unlink(missing_ok=True)  # where both names are of one file, replacing does nothing

    def resume(self, path: str) -> None:
        """Restore history and best metric from a checkpoint, and finish what a kill behind its writing prevented."""
        saved = load_checkpoint_metadata(path)['saver']
        self.load_state_dict(saved)
        epoch, metric = saved['pending']
        numbered = self._checkpoint_path(epoch)
        full = len(self.checkpoint_files) >= self.max_history
        if not os.path.exists(numbered) and not (full and not self.cmp(metric, self.checkpoint_files[-1][1])):
            self._cleanup_checkpoints(int(full))
            self._duplicate(path, numbered)
            self._track_checkpoint(numbered, epoch, metric, update_best_file=False)
        best = path if self.best_epoch == epoch else self._checkpoint_path(self.best_epoch)
        if os.path.exists(best):
            self._duplicate(best, os.path.join(self.checkpoint_dir, 'model_best' + self.extension))


def resume_run(
    path: str,
    args: argparse.Namespace,
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    scaler: Optional[NativeScaler],
) -> int:
    """Load model, optimizer, scaler, and set up and load the average of weights; returns the epoch to go on with.

    Raises:
        ValueError: If the checkpoint is of another model, other classes or another optimizer.
    """
    trained = read_checkpoint_args(path)
    class_names = trained['class_names']
    if trained['eval_metric'] != args.eval_metric:
        raise ValueError(f'Checkpoint {path!r} was chosen by {trained["eval_metric"]}, keep that --eval-metric.')
    if class_names != args.class_names:
        raise ValueError(
            f'Checkpoint {path!r} was trained on {len(class_names)} classes ({", ".join(class_names[:3])}, ...), the '
            f'data set has {len(args.class_names)} ({", ".join(args.class_names[:3])}, ...). To start from its weights '
            'give --pretrained-path instead of --resume.'
        )
    options = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
    try:
        epoch = resume_task_checkpoint(task, path, optimizer, scaler, log_info=False)
        if task.has_ema():
            load_task_ema_checkpoint(task, path)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise ValueError(f'Checkpoint {path!r} does not fit the run, which needs the flags it had: {reason}') from error
    for group, given in zip(optimizer.param_groups, options):  # learning rate and such may be given anew
        group.pop('initial_lr', None)
        group.update(given)
    return epoch


def trim_summary_file(path: Path, epoch: int) -> None:
    """Drop the rows of a summary from an epoch on, at once."""
    if path.is_file():
        draft = path.with_suffix('.tmp')
        shutil.copyfile(path, draft)
        trim_summary(str(draft), epoch)
        os.replace(draft, path)
