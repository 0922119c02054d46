"""Images in object stores and on web servers, through fsspec: list images, and read them into memory."""

import io
import itertools
import os
import re
import time
import warnings
from functools import partial
from glob import has_magic
from typing import Any, BinaryIO, Callable, Collection, Dict, Iterator, List, Optional, Tuple, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError

from ..runtime import FileWarning, one_line
from .address import HTTP, Address, divide_url, named

__all__ = ['CHUNK', 'TIMEOUT', 'connect', 'find_remote', 'open_image', 'read_again']

MOST_BYTES = 1 << 28  # of an image: a body without end must not fill the memory
WAITS = (0.5, 1, 2, 4)  # seconds before an image is tried again
TIMEOUT = dict(sock_connect=10, sock_read=20, total=300)  # seconds; other stores have theirs
CHUNK = 1 << 20  # bytes
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_AGAIN = {408, 425, 429}  # and 5xx: a later request may be answered
_BROKEN = {  # errors of the libraries below fsspec that need not be an OSError
    *('ClientConnectionError', 'ClientPayloadError'),  # aiohttp
    *('ConnectionError', 'HTTPClientError'),  # botocore
    'TransportError',  # httpx
    'TimeoutError',  # asyncio in Python 3.10
}


def _status(error: BaseException) -> Optional[int]:
    """Status of the answer of a server, as its client keeps it: aiohttp, gcsfs, httpx, botocore."""
    response = getattr(error, 'response', None)
    if isinstance(response, dict):
        response = response.get('ResponseMetadata', {}).get('HTTPStatusCode')
    for holder, name in ((error, 'status'), (error, 'code'), (response, 'status_code')):
        if isinstance(status := getattr(holder, name, None), int):
            return status
    return response if isinstance(response, int) else None


def _causes(error: Optional[BaseException]) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _may_pass(error: BaseException) -> bool:
    """Whether it may go well later: a connection that broke, no answer in time, or an answer that says so."""
    if not {kind.__name__ for kind in type(error).__mro__}.isdisjoint(_BROKEN):
        return True
    status = next(filter(None, map(_status, _causes(error))), None)
    if status:
        return status >= 500 or status in _AGAIN
    return isinstance(error, OSError) and not isinstance(error, _PERMANENT)


def _reason(error: BaseException, url: str) -> str:
    """What a library says of an error, without what may be a credential."""
    if isinstance(error, FileNotFoundError):
        return 'there is no such file'
    if isinstance(error, (TimeoutError, FSTimeoutError)):
        return 'no answer in time'
    name, secrets = divide_url(url)
    status, message = _status(error), getattr(error, 'message', None)
    text = f'{status} {message}' if status and message else str(error)  # aiohttp would add the URL
    text = re.sub(r'https?://\S+', lambda other: divide_url(other[0])[0], text.replace(url, name))
    if any(secret.strip('@?#') in text for secret in secrets if len(secret) > 1):
        text = ''
    return one_line(Exception(text)) if text.strip() else type(error).__name__


def connect(url: str, timeout: Dict[str, Any] = TIMEOUT, **options: Any) -> Tuple[fsspec.AbstractFileSystem, str]:
    """The store of a URL, and the path in there. fsspec keeps stores, for each process its own."""
    if HTTP.match(url):
        import aiohttp

        options['timeout'] = aiohttp.ClientTimeout(**timeout)
    return url_to_fs(url, **options)


class _Body(io.BytesIO):
    name: str


def _download(url: str) -> _Body:
    store, path = connect(url)
    if HTTP.match(url):
        body = _Body()
        # servers need not keep to a range. Without a size, they are asked for it, and any failure is 'not found'
        with store.open(path, block_size=0, size=1) as stream:
            while body.tell() <= MOST_BYTES and (chunk := stream.read(CHUNK)):
                body.write(chunk)
        body.seek(0)
    else:
        body = _Body(store.cat_file(path, end=MOST_BYTES + 1))
    if body.getbuffer().nbytes > MOST_BYTES:
        raise ValueError(f'it has more than {MOST_BYTES >> 20} MiB: to read it, copy it to a local folder')
    return body


_Read = TypeVar('_Read')


class _Reader:
    """Tries again what may go well later, and warns at the first failure in spite of that: the store may be gone."""

    def __init__(self) -> None:
        self.has_warned = False

    def __call__(self, url: str, read: Callable[[], _Read]) -> _Read:
        """Return what a function reads from a URL.

        Raises:
            OSError: If that does not succeed. Says why.
        """
        waits = iter(WAITS)
        for tries in itertools.count(1):
            try:
                found = read()
            except MemoryError:
                raise
            except Exception as error:  # those of any library
                reason = _reason(error, url)
                if not _may_pass(error):
                    raise OSError(reason) from None  # the cause would show the whole URL
                wait = next(waits, None)
                if wait is not None:
                    time.sleep(wait)
                    continue
                reason += f' (tried {tries} times)'
                if not self.has_warned:
                    self.has_warned = True
                    name = divide_url(url)[0]
                    warnings.warn(f'{name!r}: {reason}. Is its store there?', FileWarning, stacklevel=2)
                raise OSError(reason) from None
            self.has_warned: bool = False
            return found


read_again: _Reader = _Reader()


def open_image(path: str) -> BinaryIO:
    """Open a local file, or read one in a store as a whole. That of a worker process has connections of its own.

    Raises:
        OSError: If it cannot be read, for a store after several tries if others may succeed. Says why.
    """
    path = named(path)
    if not isinstance(path, Address):
        return open(path, 'rb')
    body = read_again(path.url, partial(_download, path.url))
    body.name = path
    return body


def find_remote(address: Address, extensions: Collection[str]) -> List[str]:
    """Find what an address stands for: an image, a folder, or a glob pattern. The latter yield files, sorted.

    Args:
        address: A URL.
        extensions: Of the files in folders and of patterns.

    Raises:
        OSError: If the store cannot be asked.
        ValueError: If the URL is that of a list, or of a folder or pattern where nothing can be listed.
    """
    if address.lower().endswith(('.txt', '.json')):
        raise ValueError(f'{address!r}: a list of images is read from a local file, copy it here first.')
    if HTTP.match(address):
        if address.endswith('/') or '*' in address:
            raise ValueError(f'{address!r}: web servers list no folders, give a .txt file with a URL on each line.')
        return [address.url]
    try:
        return _list(address.url, tuple(extensions))  # once: nothing is lost, and these stores try again themselves
    except Exception as error:  # those of any library
        raise OSError(f'Cannot list {address!r}: {_reason(error, address.url)}.') from None


def _list(url: str, extensions: Tuple[str, ...]) -> List[str]:
    # not the store that is kept: workers that are forked must not inherit it
    store, path = connect(url, skip_instance_cache=True)
    top = url.rstrip('/') if path else url
    if not top.endswith(path):  # the path alone does not say where the store is
        raise ValueError('its files have no URL of such a form, give a .txt file with a URL on each line')
    start = top[: len(top) - len(path)]
    try:
        kind = store.info(path)['type']
    except FileNotFoundError:
        kind = 'pattern' if has_magic(path) else 'nothing'
    if kind == 'file':
        return [url]
    found: Dict[str, Any] = {}
    folder = path
    if kind == 'directory':
        found = store.find(path, detail=True)
    elif kind == 'pattern':
        found = store.glob(path, detail=True)
        folder = os.path.dirname(re.split(r'[*?[]', path)[0])
    names = [name for name, info in found.items() if info['type'] == 'file' and name.lower().endswith(extensions)]
    # hidden files are left out, as in local folders
    return [f'{start}{name}' for name in sorted(names) if '/.' not in f'/{name[len(folder) :]}']
