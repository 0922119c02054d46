"""Download a public file from Google Drive: through its page of confirmation, resumed, and whole or not at all."""

import hashlib
import re
import shutil
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple
from urllib.parse import urlencode, urljoin, urlsplit

from huggingface_hub import get_session

from ..data.progress_bar import ProgressBar
from ..runtime import one_line
from .file import HTTPError
from .source import GOOGLE_DRIVE, NotDownloaded, drive_endpoint

__all__ = ['download']

CONTENT = 'https://drive.usercontent.google.com'
STEPS, RESUMES, PAGE, LONGEST_URL = 6, 3, 1 << 20, 2000
TIMEOUT = (1.5, 30.0, 30.0, 30.0)  # seconds to connect, read, write, and wait for a connection
SIGN_IN = 'it asks to sign in, so the file is not public any more'
REFUSALS = {
    r'Quota exceeded|Too many users have': 'the file has been downloaded too often today, try again tomorrow',
    r'ServiceLogin|accounts\.google\.com|Sign in': SIGN_IN,
}


class _Form(HTMLParser):
    """The first form of a page that is sent by GET, with its hidden fields."""

    def __init__(self, page: str):
        super().__init__()
        self.action: Optional[str] = None
        self.fields: Dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        values = {key: value or '' for key, value in attrs}
        if tag == 'form' and self.action is None and values.get('method', 'get').lower() == 'get':
            self.action = values.get('action', '')
        elif tag == 'input' and self.action is not None and values.get('type') == 'hidden' and 'name' in values:
            self.fields[values['name']] = values.get('value', '')


def _places() -> Set[Tuple[str, str]]:
    """Schemes and hosts that are asked."""
    endpoint = drive_endpoint()
    return {urlsplit(url)[:2] for url in ([GOOGLE_DRIVE, CONTENT] if endpoint == GOOGLE_DRIVE else [endpoint])}


def _confirmed(page: str, url: str, status: int) -> str:
    """Return the address that a page of confirmation leads to.

    Raises:
        NotDownloaded: If it is another page. Says which.
    """
    form = _Form(page)
    if status == 200 and form.action is not None and 'confirm' in form.fields:
        return urlsplit(urljoin(url, form.action))._replace(query=urlencode(form.fields)).geturl()
    reason = next((reason for sign, reason in REFUSALS.items() if re.search(sign, page)), None)
    other = f'it answers with HTTP status {status}' if status != 200 else 'it sent a web page in place of the file'
    raise NotDownloaded(reason or other)


def _check_place(url: str) -> None:
    """Raise a NotDownloaded for an address that is not to be asked."""
    if len(url) > LONGEST_URL or urlsplit(url)[:2] not in _places():
        sign_in = urlsplit(url).hostname == 'accounts.google.com'
        raise NotDownloaded(SIGN_IN if sign_in else f'it leads to another place, {url[:80]!r}')


@contextmanager
def _opened(url: str, start: int = 0) -> Iterator[Any]:
    """Ask for a file from some byte on, by way of redirections and of the page of confirmation."""
    headers = {'Accept-Encoding': 'identity'} | ({'Range': f'bytes={start}-'} if start else {})
    # a client of our own, of the kind that the Hub has: cookies end with it
    with type(get_session())(timeout=TIMEOUT, follow_redirects=False) as client:
        for _ in range(STEPS):
            _check_place(url)
            with client.stream('GET', url, headers=headers) as response:
                if response.is_redirect and 'location' in response.headers:
                    url = urljoin(url, response.headers['location'])
                elif response.status_code in (200, 206) and 'content-disposition' in response.headers:
                    yield response
                    return
                else:
                    page = b''
                    for chunk in response.iter_bytes():
                        page += chunk
                        if len(page) > PAGE:
                            break
                    url = _confirmed(page.decode('utf-8', 'replace'), url, response.status_code)
    raise NotDownloaded('it redirects without end')


def _announced(response: Any) -> Tuple[int, str]:
    """The length of the whole file, and what tells it from other versions, where the server says that.

    Raises:
        NotDownloaded: If the answer says no length.
    """
    headers = response.headers
    length = headers.get('content-length', '')
    if response.status_code == 206:
        length = headers.get('content-range', '').rpartition('/')[2]
    if not re.fullmatch('[0-9]{1,12}', length):
        raise NotDownloaded('it does not say the length of the file')
    version = '|'.join([length, *(headers.get(key, '') for key in ('etag', 'last-modified', 'content-disposition'))])
    return int(length), hashlib.sha256(version.encode()).hexdigest()[:8]


def _append(url: str, part: Path, length: int, bar: ProgressBar) -> None:
    """Add to a part what it lacks of the file."""
    have = part.stat().st_size
    with _opened(url, have) as response, open(part, 'ab') as file:
        if _announced(response)[0] != length:
            raise NotDownloaded('the file has changed during the download, try again')
        if response.status_code == 200 and have:  # it sends no parts
            file.truncate(0)
            bar.reset()
            have = 0
        elif have and not response.headers['content-range'].startswith(f'bytes {have}-'):
            raise NotDownloaded('it sends another part of the file than was asked for')
        for chunk in response.iter_raw():
            have += len(chunk)
            if have > length:
                file.truncate(0)
                raise NotDownloaded('it sends more than the length that it announced')
            file.write(chunk)
            bar.update(len(chunk))


def download(file_id: str, folder: Path, name: str) -> Path:
    """Download a file, or what an earlier try has left to download.

    Args:
        file_id: The file on Google Drive.
        folder: Where to put it. While it is a part it stays there, too.
        name: Beginning of its name.

    Returns:
        The file, of the length that was announced.

    Raises:
        NotDownloaded: If it cannot be downloaded. Says why, in words that go on after a colon.
        OSError: If it cannot be written.
    """
    url = f'{drive_endpoint()}/uc?{urlencode(dict(export="download", id=file_id))}'
    try:
        with _opened(url) as response:
            length, version = _announced(response)
        part = folder / f'{name}-{version}.part'
        for old in set(folder.glob(f'{name}-*.part')) - {part}:
            old.unlink()
        missing = length - (part.stat().st_size if part.exists() else 0) + length // 3  # converted, it takes a third
        if shutil.disk_usage(folder).free < missing:
            raise OSError(f'The disk of {str(folder)!r} has less than {missing / 1e6:.0f} MB, which the weights need.')
        part.touch()
        reason = ''
        with ProgressBar(length, 'downloading', unit='B', unit_scale=True, initial=part.stat().st_size) as bar:
            for _ in range(1 + RESUMES):
                if part.stat().st_size == length:
                    return part
                try:
                    _append(url, part, length, bar)
                except HTTPError as error:  # of the connection; what is refused is a NotDownloaded
                    reason = f'{type(error).__name__}: {one_line(error, 100)}'
        size = part.stat().st_size
        if size == length:
            return part
    except (HTTPError, ValueError) as error:  # a ValueError of an address that is none
        raise NotDownloaded(f'{type(error).__name__}: {one_line(error, 160)}') from error
    raise NotDownloaded(
        f'it broke off {1 + RESUMES} times, {size / 1e6:.0f} of {length / 1e6:.0f} MB are there, and the next try goes '
        f'on from them ({reason or "no reason given"})'
    )
