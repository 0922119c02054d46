"""Checkpoints that survive a kill at any moment, and how a run resumes from one."""

import copy
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

import torch
import torch.nn as nn

from timm.task import MultiLabelClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, NativeScaler

from ..runtime import clear_drafts, fits, locked, one_line
from ..weights.content import read_content, reading_once
from ..weights.file import LAYOUT, read_training

__all__ = ['SafeSaver', 'TrainTask', 'open_run', 'resume_run']

NUMBERED = r'checkpoint-[0-9]+\.pth\.tar'  # the files that a saver keeps and removes, besides last and best
METRIC = Union[None, int, float]
PARAMETER_STATES = {'exp_avg', 'exp_avg_sq', 'momentum_buffer'}  # of the shape of the parameter


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
    The number in a name is that of the epoch on the screen, from 1; epochs in arguments and inside of files are from 0.
    """

    first_number = 1

    def _checkpoint_path(self, epoch: int) -> str:
        return super()._checkpoint_path(epoch + self.first_number)

    def state_dict(self, epoch: Optional[int] = None, metric: METRIC = None) -> Dict[str, Any]:
        return dict(super().state_dict(epoch, metric), layout=LAYOUT)

    def best_epoch_with(self, epoch: int, metric: METRIC) -> Optional[int]:
        """The best epoch once this one is saved."""
        is_better = metric is not None and (self.best_metric is None or self.cmp(metric, self.best_metric))
        return epoch if is_better else self.best_epoch

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
        saved = _read_saver(path)
        self.first_number = int(saved.get('layout') == LAYOUT)
        self.load_state_dict(saved)
        epoch, metric = saved['pending']
        numbered = self._checkpoint_path(epoch)
        full = len(self.checkpoint_files) >= self.max_history
        worst = self.checkpoint_files[-1][1] if full else None
        if not os.path.exists(numbered) and (worst is None or (metric is not None and self.cmp(metric, worst))):
            self._cleanup_checkpoints(int(full))
            self._duplicate(path, numbered)
            self._track_checkpoint(numbered, epoch, metric, update_best_file=False)
        if not self.first_number and self.checkpoint_files:
            names = ', '.join(sorted(os.path.basename(file) for file, _ in self.checkpoint_files))
            print(f'Checkpoints of an earlier version keep their names, which count epochs from 0: {names}.')
        self.first_number: int = 1
        files = [file for file, value in self.checkpoint_files if value == self.best_metric]
        best = [path] if self.best_epoch == epoch else files[:1]  # of equally good ones the first is the earliest
        if self.best_epoch is not None and best:
            self._duplicate(best[0], os.path.join(self.checkpoint_dir, 'model_best' + self.extension))


def _check_entries(path: str, entries: Dict[str, Any], hints: Dict[str, Any]) -> None:
    """Raise a ValueError that names the first entry of a checkpoint that is missing or of another type."""
    for name, hint in hints.items():
        if name not in entries or not fits(entries[name], hint):
            found = f'of type {type(entries[name]).__name__}' if name in entries else 'missing'
            raise ValueError(f'{path!r} is damaged: its {name} is {found}. Take another checkpoint of its folder.')


def _read_saver(path: str) -> Dict[str, Any]:
    """Read the history of checkpoints in a checkpoint: names in the folder of the run, whatever else it says."""
    content = read_content(path)
    saved = content.get('saver') if isinstance(content, dict) else None
    _check_entries(path, dict(saver=saved), dict(saver=Dict[str, Any]))
    hints = dict(checkpoint_files=List[List[Any]], pending=List[Any], best_epoch=Optional[int], best_metric=METRIC)
    _check_entries(path, saved, hints)
    epochs = [saved['pending'][:1], [saved['best_epoch'] or 0]]
    names = [entry[:1] for entry in saved['checkpoint_files']]
    metrics = [entry[1:] for entry in (saved['pending'], *saved['checkpoint_files'])]
    if not (
        all(fits(epoch, List[int]) and epoch and epoch[0] >= 0 for epoch in epochs)
        and all(fits(name, List[str]) and name and re.fullmatch(NUMBERED, name[0]) for name in names)
        and all(fits(metric, List[METRIC]) and len(metric) == 1 for metric in metrics)
    ):
        raise ValueError(f'{path!r} is damaged: its history has something else than checkpoints of its run.')
    return copy.deepcopy(saved)


def _check_resumed(path: str, task: TrainTask, optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError unless a checkpoint is of this run: its structure, classes, metric and optimizer."""
    trained, flags = read_training(path), task.trained_with
    if not trained:
        raise ValueError(f'{path!r} is not a checkpoint of train_multilabel.py.')
    _check_entries(path, trained.config, dict(eval_metric=str, opt=str, model_ema=bool))
    if trained.config['eval_metric'] != flags['eval_metric']:
        raise ValueError(f'Checkpoint {path!r} was chosen by {trained.config["eval_metric"]}, keep that --eval-metric.')
    class_names = flags['class_names']
    if trained.class_names != class_names:
        raise ValueError(
            f'Checkpoint {path!r} was trained on {len(trained.class_names)} classes '
            f'({", ".join(trained.class_names[:3])}, ...), the data set has {len(class_names)} '
            f'({", ".join(class_names[:3])}, ...). To start from its weights '
            'give --pretrained-path instead of --resume.'
        )
    remedy = 'keep it, or start from its weights by --pretrained-path instead of --resume'
    if trained.config['opt'].lower() != flags['opt'].lower():
        raise ValueError(
            f'Checkpoint {path!r} was trained by --opt {trained.config["opt"]}, not {flags["opt"]}: {remedy}.'
        )
    if flags['model_ema'] and trained.config['model_ema'] and not trained.has_ema:
        raise ValueError(
            f'{path!r} is damaged: it has no average of the weights. Take another checkpoint of its folder.'
        )
    for name in ('model_ema', 'model_ema_force_cpu', 'val_fraction', 'bit_depth', 'background'):
        before, now = trained.config.get(name), flags.get(name)
        if before != now:
            flag = f'--{name.replace("_", "-")}'
            raise ValueError(f'Checkpoint {path!r} was trained with {flag} {before}, this run has {now}: {remedy}.')
    if trained.table != flags.get('table'):
        raise ValueError(
            f'Checkpoint {path!r} was trained on a table that was understood otherwise, {trained.table}, not '
            f'{flags.get("table")}: restore the table and its flags, or start anew.'
        )
    content = read_content(path)
    _check_entries(path, content, dict(epoch=int, version=int, optimizer=Dict[str, Any]))
    _read_saver(path)
    state = content['optimizer']
    _check_entries(path, state, dict(state=Dict[int, Dict[str, Any]], param_groups=List[Dict[str, Any]]))
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    for index, values in state['state'].items():
        for name in PARAMETER_STATES & values.keys():
            value = values[name]
            shape = parameters[index].shape if index in range(len(parameters)) else None
            if value is not None and (not isinstance(value, torch.Tensor) or value.shape != shape):
                raise ValueError(f'{path!r} does not fit the run: {name} of parameter {index} has another shape.')


@reading_once()
def resume_run(path: str, task: TrainTask, optimizer: torch.optim.Optimizer, scaler: Optional[NativeScaler]) -> int:
    """Load model, optimizer, scaler and the average of the weights.

    Returns:
        The epoch to continue with.

    Raises:
        ValueError: If the checkpoint is of another model, other classes, another optimizer or another metric.
    """
    _check_resumed(path, task, optimizer)
    options = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
    try:
        epoch = resume_task_checkpoint(task, path, optimizer, scaler, log_info=False)
        if task.has_ema():
            load_task_ema_checkpoint(task, path)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f'Checkpoint {path!r} does not fit the run, which needs the flags it had: {one_line(error, 200)}'
        ) from error
    for group, given in zip(optimizer.param_groups, options):  # learning rate and such may be given anew
        group.pop('initial_lr', None)
        group.update(given)
    return epoch


@contextmanager
def open_run(folder: Path, resume: Optional[str]) -> Iterator[None]:
    """Create the folder of a run if necessary, and keep other runs from it until the end.

    Raises:
        ValueError: If another run is at work there, or has left its results and is not to be resumed.
    """
    with locked(folder, 'train'):
        left = [name for name in ('last.pth.tar', 'model_best.pth.tar', 'summary.csv') if (folder / name).exists()]
        if left and not resume:
            remedy = 'continue it with --resume auto, ' if left[0] == 'last.pth.tar' else ''
            raise ValueError(
                f'{str(folder)!r} has {left[0]} of another run: {remedy}give another --experiment, or remove the '
                'folder.'
            )
        for draft in ('tmp.pth.tar', 'summary.tmp'):  # of a run that was killed, as no other is at work
            (folder / draft).unlink(missing_ok=True)
        clear_drafts(folder, age=0)
        yield
