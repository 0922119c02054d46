"""A terminal for the code under test, and what can be seen on it."""

import os
import struct
import sys
import threading
from functools import partialmethod
from typing import Any, List

import pytest

from gkgnet_timm.data.progress_bar import ProgressBar


class Screen:
    """Stdout and stderr of this process become a terminal; bars draw every update. Windows has none: it skips the test.

        with Screen() as screen:
            ...
        assert screen.lines == [...]

    Args:
        columns: Width of the terminal, 0 for one that does not say.
        to_pipe: 'stdout' or 'stderr', if that stays what it is.
    """

    def __init__(self, columns: int = 80, to_pipe: str = ''):
        self.columns, self.to_pipe, self.patch = columns, to_pipe, pytest.MonkeyPatch()

    def __enter__(self) -> 'Screen':
        fcntl, termios = pytest.importorskip('fcntl'), pytest.importorskip('termios')
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 24 if self.columns else 0, self.columns, 0, 0))
        self.data = b''
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.stream = os.fdopen(slave, 'w', encoding='utf-8', buffering=1)
        self.patch.setattr(ProgressBar, '__init__', partialmethod(ProgressBar.__init__, mininterval=0))
        for name in {'stdout', 'stderr'} - {self.to_pipe}:
            self.patch.setattr(sys, name, self.stream)
        return self

    def __exit__(self, *error: Any) -> None:
        self.patch.undo()
        self.stream.close()
        self.reader.join()
        os.close(self.master)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                return
            if not data:
                return
            self.data += data

    @property
    def drawn(self) -> List[str]:
        """All that was ever drawn, from the start of a line or a carriage return to the next one."""
        text = self.data.decode().replace('\r', '\n')
        return [part.rstrip() for part in text.split('\n') if part.strip()]

    @property
    def lines(self) -> List[str]:
        """What stays in the end, wrapped lines whole, without those that are empty."""
        lines = []
        for line in self.data.decode().split('\n'):
            shown = ''
            for part in line.split('\r'):
                shown = part + shown[len(part) :]
            lines.append(shown.rstrip())
        return [line for line in lines if line]
