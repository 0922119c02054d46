"""How progress looks on a terminal."""

import os
import sys
from typing import Any, Dict

import torch
from tqdm import tqdm

__all__ = ['ProgressBar', 'say']

_INTERRUPT = len('^C')  # which a terminal shows where the bar ends
_RATE = ', {rate_noinv_fmt}, {remaining} left'  # tqdm's fields for images per second and time


def say(step: str) -> None:
    """Name a step that takes seconds, on a terminal only."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(step, file=sys.stderr)


class ProgressBar(tqdm):
    """A bar on stderr if that is a terminal, nearly as wide as it, and else nothing. Of several processes one draws.

    Args:
        total: Number of images, or of what else is counted; 0 if unknown.
        what: What is going on.
        figures: What follows the numbers, in tqdm's fields.
        hidden: Draw nothing, for a reason of the caller's.
        kwargs: More arguments of tqdm.
    """

    monitor_interval = 0  # no thread: every update looks at the clock

    def __init__(self, total: int, what: str, figures: str = _RATE, hidden: bool = False, **kwargs: Any):
        hidden = hidden or sys.stderr is None or torch.distributed.is_initialized() and torch.distributed.get_rank() > 0
        counts = '|{bar}| {n_fmt}/{total_fmt}' if total else '{n_fmt}'
        kwargs = dict(leave=False, unit=' img', miniters=1) | kwargs
        options = dict(bar_format=f'{{desc}} {counts}{figures}', disable=hidden or None, ncols=80, nrows=24)
        super().__init__(total=total, desc=what, file=sys.stderr, **options, **kwargs)

    def update(self, n: int = 1) -> None:
        """Go on, to the total at most: processes that share the images may have some twice."""
        super().update(min(n, self.total - self.n) if self.total else n)

    def close(self) -> None:
        """Remove the bar unless it is to be left, and the ^C behind it."""
        if not self.disable and not self.leave:
            self.display(' ' * (self.format_dict['ncols'] + _INTERRUPT))
        super().close()

    @property
    def format_dict(self) -> Dict[str, Any]:
        """What tqdm draws from, with the width that the terminal has now; some say 0."""
        try:
            columns = os.get_terminal_size(self.fp.fileno()).columns
        except OSError:
            columns = 0
        return super().format_dict | dict(ncols=(columns or 80) - 1 - _INTERRUPT)
