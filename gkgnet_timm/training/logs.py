"""Where the figures of each epoch go: summary.csv, and Weights & Biases or TensorBoard if asked for.

Epochs are counted from 1 there, as on the screen.
"""

import csv
import os
import uuid
from pathlib import Path
from typing import Any, Dict, Optional

from .config import TrainConfig
from .evaluate import EpochResult

__all__ = ['RunLog']


def _start_wandb(config: TrainConfig, run_id: str) -> Any:
    """Begin a run at Weights & Biases, or continue that of the id."""
    try:
        import wandb
    except ImportError:
        raise ValueError('--log-wandb needs the package: pip install wandb.') from None
    wandb.init(
        project=config.wandb_project,
        name=config.experiment,
        id=run_id,
        resume='allow',
        config=config.to_dict(),
    )
    return wandb


def _start_tensorboard(folder: Path, first_epoch: int) -> Any:
    """Begin event files, or continue those of a folder, without what they have from an epoch on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--log-tensorboard needs the package: pip install 'gkgnet-timm[tensorboard]'.") from None
    return SummaryWriter(str(folder), purge_step=first_epoch + 1)


def _trim(path: Path, epochs: int) -> None:
    """Drop the rows of a summary after as many epochs, at once. Rows of an earlier version are brought to this one."""
    if not path.is_file():
        return
    with open(path, newline='', encoding='utf-8') as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if 'eval_criterion' in header or rows and rows[0][0] == '0':  # it counted epochs from 0
        names = dict(eval_loss='eval_bce', eval_criterion='eval_loss')
        header = [names.get(name, name) for name in header]
        rows = [[str(int(row[0]) + 1), *row[1:]] for row in rows]
    rows = [row for row in rows if int(row[0]) <= epochs]
    if not rows:
        path.unlink()
        return
    draft = path.with_suffix('.tmp')
    with open(draft, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([header, *rows])
    os.replace(draft, path)


def _append(path: Path, row: Dict[str, Any]) -> None:
    """Add a row to a csv. If its columns are others, the file gets those of both."""
    rows, columns = [], list(row)
    if path.is_file():
        with open(path, newline='', encoding='utf-8') as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or row), list(reader)
    if row.keys() <= set(columns) and rows:
        with open(path, 'a', newline='', encoding='utf-8') as file:
            csv.DictWriter(file, columns).writerow(row)
        return
    draft = path.with_suffix('.tmp')
    with open(draft, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys([*columns, *row])))
        writer.writeheader()
        writer.writerows([*rows, row])
    os.replace(draft, path)


class RunLog:
    """The figures of each epoch of a run.

    Args:
        config: Fields `log_wandb`, `wandb_project`, `log_tensorboard` and `experiment`.
        folder: Folder of the run.
        first_epoch: Epoch, from 0, that the run continues with: what is noted from there on is dropped.
        wandb_id: Run at Weights & Biases to continue; None for a fresh one.

    Attributes:
        wandb_id: The run there, None without.

    Raises:
        ValueError: If a package is missing.
    """

    def __init__(self, config: TrainConfig, folder: Path, first_epoch: int, wandb_id: Optional[str] = None):
        self.summary: Path = folder / 'summary.csv'
        self.wandb_id: Optional[str] = (wandb_id or uuid.uuid4().hex[:8]) if config.log_wandb else None
        self.wandb: Any = _start_wandb(config, self.wandb_id) if config.log_wandb else None
        self.tensorboard: Any = (
            _start_tensorboard(folder / 'tensorboard', first_epoch) if config.log_tensorboard else None
        )
        _trim(self.summary, first_epoch)

    def write(
        self,
        epoch: int,
        train_metrics: Dict[str, float],
        result: Optional[EpochResult],
        lr: float,
        best_epoch: Optional[int],
    ) -> None:
        """Note an epoch, from 0: metrics of its training, of its evaluation if any, its last learning rate, and which
        epoch, from 0, is the best so far."""
        row: Dict[str, Any] = dict(epoch=epoch + 1, **{f'train_{name}': value for name, value in train_metrics.items()})
        if result:
            row.update({f'eval_{name}': value for name, value in result.metrics.items()})
            row.update(eval_chance=result.chance, eval_weights=result.weights)
            if best_epoch is not None:
                row['best_epoch'] = best_epoch + 1
        row['lr'] = lr
        _append(self.summary, row)
        if self.wandb:
            self.wandb.log(row)
        if self.tensorboard:
            for name, value in row.items():
                if isinstance(value, float):
                    self.tensorboard.add_scalar(name.replace('_', '/', 1), value, epoch + 1)
            self.tensorboard.flush()

    def close(self) -> None:
        """End the logs that are services of their own."""
        if self.tensorboard:
            self.tensorboard.close()
