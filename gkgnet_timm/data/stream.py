"""Files in stores that are read from front to back, such as shards, without room for them."""

import io
from functools import partial
from typing import BinaryIO, Optional

from .address import HTTP, Address
from .remote import CHUNK, TIMEOUT, connect, read_again

__all__ = ['open_stream']


def _open_at(url: str, place: int) -> BinaryIO:
    """Open a file in a store to read on from a place."""
    store, path = connect(url, dict(TIMEOUT, total=None))  # as long as its images take to be labelled
    if not HTTP.match(url):
        source = store.open(path)
        source.seek(place)
        return source
    headers = dict(store.kwargs.get('headers') or {}, Range=f'bytes={place}-')
    source = store.open(path, block_size=0, size=1, **(dict(headers=headers) if place else {}))
    while source.r.status != 206 and place:  # servers need not keep to a range
        chunk = source.read(min(place, CHUNK))
        if not chunk:
            raise ValueError('it has become shorter')
        place -= len(chunk)
    return source


class _Stream(io.RawIOBase):
    """A file in a store, read from front to back. Where a connection breaks, another goes on."""

    def __init__(self, url: str):
        self.url, self.place = url, 0
        self.source: Optional[BinaryIO] = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        chunk = read_again(self.url, partial(self._next, len(buffer)))
        buffer[: len(chunk)] = chunk
        self.place += len(chunk)
        return len(chunk)

    def _next(self, size: int) -> bytes:
        self.source = self.source or _open_at(self.url, self.place)
        try:
            return self.source.read(size)
        except Exception:
            self.source.close()
            self.source = None
            raise

    def close(self) -> None:
        if self.source:
            self.source.close()
        super().close()


def open_stream(path: str) -> BinaryIO:
    """Open a local file, or one in a store, to read it from front to back. That needs no room for it.

    Reading raises an OSError that says why, for a store after several tries if others may succeed.
    """
    return io.BufferedReader(_Stream(path.url), CHUNK) if isinstance(path, Address) else open(path, 'rb')
