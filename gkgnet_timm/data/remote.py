"""Images in object stores and on web servers, through fsspec: list them, and read them into memory."""

import io
import itertools
import os
import re
import time
import warnings
from functools import lru_cache
from glob import has_magic
from typing import Any, BinaryIO, Callable, Collection, Dict, Iterator, List, Optional, Tuple, TypeVar

import fsspec
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError

from ..runtime import FileWarning, is_url, one_line

__all__ = ['Address', 'find_remote', 'named', 'open_image']

MOST_BYTES = 1 << 28  # of an image: a body without end must not fill the memory
WAITS = (0.5, 1, 2, 4)  # seconds before an image is tried again
_TIMEOUT = dict(sock_connect=10, sock_read=20, total=300)  # seconds; other stores have theirs
_HTTP = re.compile(r'https?://')
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_AGAIN = {408, 425, 429}  # and 5xx: a later request may be answered
# errors of the libraries below fsspec that are no OSError: of aiohttp, botocore, httpx, and of asyncio in Python 3.10
_BROKEN = {'ClientConnectionError', 'ClientPayloadError', 'ConnectionError', 'HTTPClientError', 'TransportError'}
_BROKEN.add('TimeoutError')
T = TypeVar('T')


def _divide(url: str) -> Tuple[str, List[str]]:
    """Divide a URL into what may be shown, and what may be a credential: user and password, and a query, if any.

    Only web servers have queries: in a store, '?' is a character of a name.
    """
    name, user, query = url, r'://([^/:@]*:[^/]*@)', []
    if _HTTP.match(url):
        name, *query = re.split(r'(?=[?#])', url, maxsplit=1)
        user = r'://([^/]*@|[^/:]*:(?!\d*/).*@)'
    return re.sub(user, '://', name), [*re.findall(user, name), *query]


class Address(str):
    """The name of an image in a store, as rows and messages have it: without what may be a credential.

    Attributes:
        url: All of it.

    Raises:
        ValueError: If a package for this kind of store is missing, there is no such kind, or it is a chain of stores.
    """

    url: str

    def __new__(cls, url: str) -> 'Address':
        name = super().__new__(cls, _divide(url)[0])
        name.url = url
        if '::' in url:  # its caches keep a download that broke off, and call any failure 'not found'
            first = _divide(url.partition('::')[0])[0]
            raise ValueError(f'{first}::...: caches and archives of fsspec are not read. Copy the images to a folder.')
        _check_protocol(url.partition('://')[0])
        return name


def named(path: str) -> str:
    """A path as it is, an `Address` for a URL."""
    return Address(path) if is_url(path) and not isinstance(path, Address) else path


@lru_cache
def _check_protocol(protocol: str) -> None:
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = getattr(error.__cause__, 'name', None) or protocol
        raise ValueError(f'Images at {protocol}:// need a package that is missing: pip install {package}.') from None
    except ValueError:
        raise ValueError(f'{protocol}:// is no kind of store that fsspec knows, such as s3, gs, hf, https.') from None


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
    name, secrets = _divide(url)
    status, message = _status(error), getattr(error, 'message', None)
    text = f'{status} {message}' if status and message else str(error)  # aiohttp would add the URL
    text = re.sub(r'https?://\S+', lambda other: _divide(other[0])[0], text.replace(url, name))
    if any(secret.strip('@?#') in text for secret in secrets if len(secret) > 1):
        text = ''
    return one_line(Exception(text)) if text.strip() else type(error).__name__


class _Retries:
    """Tries again what may go well later, and warns at the first failure in spite of that: the store may be gone."""

    def __init__(self) -> None:
        self.is_gone = False

    def __call__(self, work: Callable[[str], T], url: str) -> T:
        """Return what a function makes of a URL.

        Raises:
            OSError: If it does not succeed. Says why.
        """
        waits = iter(WAITS)
        for tries in itertools.count(1):
            try:
                result = work(url)
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
                if not self.is_gone:
                    self.is_gone = True
                    name = _divide(url)[0]
                    warnings.warn(f'{name!r}: {reason}. Is its store there?', FileWarning, stacklevel=2)
                raise OSError(reason) from None
            self.is_gone = False
            return result


_retry = _Retries()


def _connect(url: str, **options: Any) -> Tuple[fsspec.AbstractFileSystem, str]:
    """The store of a URL, and the path in there. fsspec keeps stores, for each process its own."""
    if _HTTP.match(url):
        import aiohttp

        options['timeout'] = aiohttp.ClientTimeout(**_TIMEOUT)
    return url_to_fs(url, **options)


class _Body(io.BytesIO):
    name: str


def _download(url: str) -> _Body:
    store, path = _connect(url)
    if _HTTP.match(url):
        body = _Body()
        # servers need not keep to a range. Without a size, they are asked for it, and any failure is 'not found'
        with store.open(path, block_size=0, size=1) as stream:
            while body.tell() <= MOST_BYTES and (chunk := stream.read(1 << 20)):
                body.write(chunk)
        body.seek(0)
    else:
        body = _Body(store.cat_file(path, end=MOST_BYTES + 1))
    if body.getbuffer().nbytes > MOST_BYTES:
        raise ValueError(f'it has more than {MOST_BYTES >> 20} MiB: to read it, copy it to a local folder')
    return body


def open_image(path: str) -> BinaryIO:
    """Open a local file, or read one in a store as a whole. That of a worker process has connections of its own.

    Raises:
        OSError: If it cannot be read, for a store after several tries if others may succeed. Says why.
    """
    path = named(path)
    if not isinstance(path, Address):
        return open(path, 'rb')
    body = _retry(_download, path.url)
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
    if _HTTP.match(address):
        if address.endswith('/') or '*' in address:
            raise ValueError(f'{address!r}: web servers list no folders, give a .txt file with a URL on each line.')
        return [address.url]
    try:
        return _retry(lambda url: _list(url, tuple(extensions)), address.url)
    except OSError as error:
        raise OSError(f'Cannot list {address!r}: {error}.') from None


def _list(url: str, extensions: Tuple[str, ...]) -> List[str]:
    # not the store that is kept: workers that are forked must not inherit it
    store, path = _connect(url, skip_instance_cache=True)
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
