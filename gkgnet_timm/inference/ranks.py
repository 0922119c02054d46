"""The processes of a distributed run: none ends before the others know, as launchers stop all when one fails."""

import sys
import traceback
from contextlib import contextmanager, redirect_stderr
from datetime import timedelta
from io import StringIO
from typing import Any, Iterator, List

import torch.distributed as dist

from ..runtime import UserError, one_line
from .device import Process

__all__ = ['Ranks']

_WITHOUT_LIMIT = timedelta(days=3650)  # shares may differ by hours; of a process that is gone the others hear at once


class Ranks:
    """What the processes of a run say to each other. A single process is a run as well.

    Args:
        process: This process.
    """

    def __init__(self, process: Process):
        self.process = process
        self._group = dist.new_group(backend='gloo', timeout=_WITHOUT_LIMIT) if process.is_distributed else None

    def gather(self, value: Any) -> List[Any]:
        """Return the values of all processes. Waits for them."""
        values = [value]
        if self._group is not None:
            values = [None] * self.process.world_size
            dist.all_gather_object(values, value, group=self._group)
        return values

    @contextmanager
    def together(self, tell_at_once: bool = False) -> Iterator[None]:
        """Wait at the end of a step for all processes. If it fails in some, all exit with status 2 and the first prints
        why. A single process raises its error.

        Args:
            tell_at_once: Print an error when it happens, as the other processes may take long.
        """
        if self._group is None:
            yield
            return
        problem = None
        try:
            yield
        except Exception as error:
            if not isinstance(error, (OSError, ValueError, UserError)):
                traceback.print_exc()
            problem = one_line(error, 2000)
            if tell_at_once:
                print(f'Process {self.process.rank} has failed, the others go on: {problem}', file=sys.stderr)
        failed = {rank: text for rank, text in enumerate(self.gather(problem)) if text}
        if not failed:
            return
        if self.process.is_primary:
            for text in dict.fromkeys(failed.values()):
                ranks = [str(rank) for rank in failed if failed[rank] == text]
                where = '' if len(ranks) == self.process.world_size else f'process {", ".join(ranks)}: '
                print(f'error: {where}{text}', file=sys.stderr, flush=True)
        self.gather(None)  # until that is printed
        sys.exit(2)

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Leave what a step prints on stderr to the first process."""
        if self.process.is_primary:
            yield
            return
        with redirect_stderr(StringIO()):
            yield
