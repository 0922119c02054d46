"""Checkpoints that survive a kill at any moment, and how a run resumes from one."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional

import torch
import torch.nn as nn

from timm.task import MultiLabelClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, NativeScaler, load_checkpoint_metadata, trim_summary

from ..runtime import one_line
from ..weights.file import read_training

__all__ = ['SafeSaver', 'TrainTask', 'resume_run', 'trim_summary_file']


class TrainTask(MultiLabelClassificationTask):
    """timm's task, whose checkpoints also say what they were trained with.

    Args:
        model: Model to train.
        criterion: Loss of logits (B, L) and targets (B, L).
        device: Device of both.
        trained_with: Plain values: the fields of the configuration, and `class_names`.

    Attributes:
        facts: More entries of a checkpoint, such as `best_weights`: those with the better metric, 'raw' or 'average'.
    """

    def __init__(self, model: nn.Module, criterion: nn.Module, device: torch.device, trained_with: Dict[str, Any]):
        super().__init__(model, criterion=criterion, device=device, verbose=False)
        self.trained_with = trained_with
        self.facts: Dict[str, Any] = {}

    def get_checkpoint_state(self, ema: bool = False, **kwargs: Any) -> Dict[str, Any]:
        state = super().get_checkpoint_state(ema, **kwargs)
        return state if ema else dict(state, arch=self.trained_with['model'], args=self.trained_with, **self.facts)


class SafeSaver(CheckpointSaver):
    """timm's saver with atomic writes: at any moment each file is complete, old or new.

    A file is written and synced under another name before it replaces the previous one, which timm's own removes first.
    """

    def _save(self, save_path: str, epoch: int, metric: Optional[float] = None) -> None:
        try:
            super()._save(save_path, epoch, metric)
            with open(save_path, 'r+b') as file:  # Windows syncs no file that is open for reading only
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
        with suppress(OSError):  # Windows opens no folder, and not every file system syncs one
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
        Path(draft).unlink(missing_ok=True)  # replacing does nothing if both names are of one file

    def resume(self, path: str) -> None:
        """Restore history and best metric from a checkpoint, and finish what a kill after its writing prevented."""
        saved = load_checkpoint_metadata(path)['saver']
        self.load_state_dict(saved)
        epoch, metric = saved['pending']
        numbered = self._checkpoint_path(epoch)
        full = len(self.checkpoint_files) >= self.max_history
        worst = self.checkpoint_files[-1][1] if full else None
        if not os.path.exists(numbered) and (worst is None or (metric is not None and self.cmp(metric, worst))):
            self._cleanup_checkpoints(int(full))
            self._duplicate(path, numbered)
            self._track_checkpoint(numbered, epoch, metric, update_best_file=False)
        if self.best_epoch is None:
            return
        best = path if self.best_epoch == epoch else self._checkpoint_path(self.best_epoch)
        if os.path.exists(best):
            self._duplicate(best, os.path.join(self.checkpoint_dir, 'model_best' + self.extension))


def resume_run(path: str, task: TrainTask, optimizer: torch.optim.Optimizer, scaler: Optional[NativeScaler]) -> int:
    """Load model, optimizer, scaler and the average of the weights.

    Returns:
        The epoch to continue with.

    Raises:
        ValueError: If the checkpoint is of another model, other classes, another optimizer or another metric.
    """
    trained, class_names = read_training(path), task.trained_with['class_names']
    if trained.config['eval_metric'] != task.trained_with['eval_metric']:
        raise ValueError(f'Checkpoint {path!r} was chosen by {trained.config["eval_metric"]}, keep that --eval-metric.')
    if trained.class_names != class_names:
        raise ValueError(
            f'Checkpoint {path!r} was trained on {len(trained.class_names)} classes '
            f'({", ".join(trained.class_names[:3])}, ...), the data set has {len(class_names)} '
            f'({", ".join(class_names[:3])}, ...). To start from its weights '
            'give --pretrained-path instead of --resume.'
        )
    options = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
    try:
        epoch = resume_task_checkpoint(task, path, optimizer, scaler, log_info=False)
        if task.has_ema():
            load_task_ema_checkpoint(task, path)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f'Checkpoint {path!r} does not fit the run, which needs the flags it had: {one_line(error, 200)}'
        ) from error
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
