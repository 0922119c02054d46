"""Show how a training run goes on."""

import sys
import time
from datetime import timedelta
from typing import Optional

from tqdm import tqdm

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
        self.epochs, self.start_epoch, self.updates, self.log_interval = epochs, start_epoch, updates, log_interval
        self.start = time.perf_counter()
        self.bar: Optional[tqdm] = None

    def start_epoch_bar(self, epoch: int) -> None:
        self.epoch, self.images = epoch, 0
        self.epoch_start = time.perf_counter()
        if sys.stdout.isatty():
            self.bar = tqdm(total=self.updates, desc=f'epoch {epoch + 1}/{self.epochs}', file=sys.stdout)

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
        rate = f'{self.images / (now - self.epoch_start):.1f} img/s'
        done = (self.epoch - self.start_epoch) * self.updates + update + 1
        left = (self.epochs - self.start_epoch) * self.updates - done
        eta = timedelta(seconds=round((now - self.start) / done * left))
        if self.bar is not None:
            self.bar.set_postfix_str(f'loss {loss:.3f}, lr {lr:.2e}, {rate}, {eta} left in all', refresh=False)
            self.bar.update()
        elif (update + 1) % self.log_interval == 0 or update + 1 == self.updates:
            print(
                f'epoch {self.epoch + 1}/{self.epochs} [{update + 1:>4}/{self.updates}]  loss {loss:7.3f}  '
                f'lr {lr:.2e}  {rate}  {eta} left',
                flush=True,
            )

    def close(self) -> None:
        """End the epoch."""
        if self.bar is not None:
            self.bar.close()
