"""Show how a training run goes on."""

import sys
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import Iterator

from ..data.progress_bar import ProgressBar

__all__ = ['Progress']


class Progress:
    """A bar on a terminal, else a line every few updates.

    Args:
        epochs: Epochs of the whole run.
        start_epoch: First epoch of this process.
        updates: Updates per epoch.
        log_interval: Updates between two lines.
    """

    def __init__(self, epochs: int, start_epoch: int, updates: int, log_interval: int):
        self.epochs = epochs
        self.start_epoch = start_epoch
        self.updates = updates
        self.log_interval = log_interval
        self.start: float = time.perf_counter()

    @contextmanager
    def show(self, epoch: int) -> Iterator[None]:
        """Show the updates of an epoch, from 0. Its bar stays on the screen, however the epoch ends."""
        self.epoch = epoch
        self.images: int = 0
        self.epoch_start: float = time.perf_counter()
        what, hidden = f'epoch {epoch + 1}/{self.epochs}', not sys.stdout.isatty()
        self.bar: ProgressBar
        with ProgressBar(self.updates, what, '{postfix}', hidden=hidden, leave=True) as self.bar:
            yield

    def update(self, update: int, images: int, loss: float, lr: float) -> None:
        """Report an update.

        Args:
            update: Its number in this epoch, from 0.
            images: Images in it, over all processes.
            loss: Mean loss of the epoch so far.
            lr: Learning rate of the first parameter group.
        """
        self.images += images
        now = time.perf_counter()
        speed = self.images / (now - self.epoch_start)
        done = (self.epoch - self.start_epoch) * self.updates + update + 1
        left = (self.epochs - self.start_epoch) * self.updates - done
        seconds = round((now - self.start) / done * left)
        if not self.bar.disable:
            # room for 9999 updates, epochs and img/s at 80 columns; what would be cut is "in all"
            digits = '.3f' if abs(loss) < 1e3 else '.0f' if abs(loss) < 1e7 else '.1e'
            rate = f'{speed:.1f}' if speed < 1000 else f'{speed:.0f}'
            left_in_all = f'{self.bar.format_interval(seconds)} left in all'
            self.bar.set_postfix_str(f'loss {loss:{digits}}, {rate} img/s, {left_in_all}', refresh=False)
            self.bar.update()
        elif (update + 1) % self.log_interval == 0 or update + 1 == self.updates:
            print(
                f'epoch {self.epoch + 1}/{self.epochs} [{update + 1:>4}/{self.updates}]  loss {loss:7.3f}  '
                f'lr {lr:.2e}  {speed:.1f} img/s  {timedelta(seconds=seconds)} left',
                flush=True,
            )
