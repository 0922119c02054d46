"""The names of images and shards in object stores and on web servers."""

import re
from functools import lru_cache
from typing import Dict, Iterable, List, Optional, Tuple

import fsspec

from ..runtime import is_url

__all__ = ['HTTP', 'Address', 'ambiguous', 'divide_url', 'named']

HTTP = re.compile(r'https?://')


def divide_url(url: str) -> Tuple[str, List[str]]:
    """Divide a URL into what may be shown, and what may be a credential: user and password, and a query, if any.

    Only web servers have queries: in a store, '?' is a character of a name.
    """
    name, user, query = url, r'://([^/:@]*:[^/]*@)', []
    if HTTP.match(url):
        name, *query = re.split(r'(?=[?#])', url, maxsplit=1)
        user = r'://([^/]*@|[^/:]*:(?!\d*/).*@)'
    return re.sub(user, '://', name), [*re.findall(user, name), *query]


class Address(str):
    """The name of an image or a shard in a store, as rows and messages have it: without what may be a credential.

    Attributes:
        url: All of it.

    Raises:
        ValueError: If a package for this kind of store is missing, there is no such kind, or it is a chain of stores.
    """

    url: str

    def __new__(cls, url: str) -> 'Address':
        name = super().__new__(cls, divide_url(url)[0])
        name.url = url
        if '::' in url:  # its caches keep a download that broke off, and call any failure 'not found'
            first = divide_url(url.partition('::')[0])[0]
            raise ValueError(f'{first}::...: caches and archives of fsspec are not read. Copy the images to a folder.')
        _check_protocol(url.partition('://')[0])
        return name


def named(path: str) -> str:
    """A path as it is, an `Address` for a URL."""
    return Address(path) if is_url(path) and not isinstance(path, Address) else path


def ambiguous(paths: Iterable[str]) -> Optional[str]:
    """The first name that several URLs have, as what differs may be a credential; None if there is none."""
    urls: Dict[str, str] = {}
    return next(
        (path for path in paths if isinstance(path, Address) and urls.setdefault(path, path.url) != path.url), None
    )


@lru_cache
def _check_protocol(protocol: str) -> None:
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = getattr(error.__cause__, 'name', None) or protocol
        raise ValueError(f'Images at {protocol}:// need a package that is missing: pip install {package}.') from None
    except ValueError:
        raise ValueError(f'{protocol}:// is no kind of store that fsspec knows, such as s3, gs, hf, https.') from None
