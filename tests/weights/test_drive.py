"""Downloads from Google Drive, as a server on loopback imitates it: whole, resumed, refused with a reason."""

import random
import types

import pytest
from fake_drive import FakeDrive
from huggingface_hub import get_session

from gkgnet_timm.weights import drive as drive_module
from gkgnet_timm.weights.drive import download
from gkgnet_timm.weights.source import NotDownloaded

SIZE = 3_000_001


@pytest.fixture
def drive(tmp_path, monkeypatch):
    path = tmp_path / 'published.pth'
    path.write_bytes(random.Random(0).randbytes(SIZE))
    with FakeDrive(path) as drive:
        monkeypatch.setenv('GKGNET_TIMM_DRIVE_ENDPOINT', f'{drive.endpoint}/')
        yield drive


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'cache'
    folder.mkdir()
    return folder


def parts(folder):
    return [path.stat().st_size for path in folder.iterdir()]


@pytest.mark.parametrize('answer', [None, 'direct'])
def test_download(drive, folder, answer):
    drive.answer = answer
    file = download('the_id', folder, 'net')
    assert file.read_bytes() == drive.path.read_bytes() and parts(folder) == [SIZE]
    asked = len(drive.requests)
    assert download('the_id', folder, 'net') == file
    assert not any('bytes=' in request for request in drive.requests[asked:])  # it was there


@pytest.mark.parametrize('answer', [None, 'no parts'])
def test_a_broken_transfer_is_resumed(drive, folder, answer):
    drive.cut = SIZE // 3 if answer is None else None
    drive.answer = answer
    if answer:
        download('the_id', folder, 'net').write_bytes(b'x' * 1000)  # the part of an earlier try, from the beginning
    assert download('the_id', folder, 'net').read_bytes() == drive.path.read_bytes()
    assert sum('bytes=' in request for request in drive.requests) >= 2


def test_the_next_try_goes_on(drive, folder):
    drive.cut = SIZE // 10
    with pytest.raises(OSError, match='broke off 4 times, 1 of 3 MB are there, and the next try goes on'):
        download('the_id', folder, 'net')
    assert parts(folder) == [4 * (SIZE // 10)]
    drive.cut, drive.requests[:] = None, []
    assert download('the_id', folder, 'net').read_bytes() == drive.path.read_bytes()
    assert f'/download bytes={4 * (SIZE // 10)}-' in drive.requests


def test_parts_of_another_file_are_not_continued(drive, folder):
    drive.cut = SIZE // 10
    with pytest.raises(OSError):
        download('the_id', folder, 'net')
    drive.path.write_bytes(random.Random(1).randbytes(SIZE - 7))
    drive.cut = None
    assert download('the_id', folder, 'net').read_bytes() == drive.path.read_bytes()
    assert parts(folder) == [SIZE - 7]


@pytest.mark.parametrize(
    'answer, reason',
    [
        ('quota', 'downloaded too often today'),
        ('sign in', 'asks to sign in'),
        ('page', 'it sent a web page in place of the file'),
        ('missing', 'HTTP status 404'),
        ('nowhere', 'HTTP status 302'),
        ('no address', 'ValueError: Invalid IPv6 URL'),
        ('round', 'it redirects without end'),
        ('elsewhere', "leads to another place, 'http://127.0.0.1:9/uc'"),
        ('no length', 'does not say the length'),
        ('wrong length', 'broke off 4 times'),
    ],
)
def test_bad_answers(drive, folder, answer, reason):
    drive.answer = answer
    with pytest.raises(OSError, match=reason) as error:
        download('the_id', folder, 'net')
    assert '\n' not in str(error.value)
    assert parts(folder) == ([SIZE] if answer == 'wrong length' else [])
    drive.answer = None
    assert download('the_id', folder, 'net').read_bytes() == drive.path.read_bytes()
    assert parts(folder) == [SIZE]


def test_more_than_was_announced(drive, folder, monkeypatch):
    """Of a server that sends chunks without end."""
    announced = drive_module._announced
    monkeypatch.setattr(drive_module, '_announced', lambda response: (SIZE - 10, announced(response)[1]))
    with pytest.raises(NotDownloaded, match='more than the length that it announced'):
        download('the_id', folder, 'net')
    assert parts(folder) == [0]


def test_no_cookies_are_kept(drive, folder):
    download('the_id', folder, 'net')
    assert not get_session().cookies


def test_an_endpoint_that_is_none(folder, monkeypatch):
    for endpoint in ('nonsense', 'http://[::1', 'ftp://mirror'):
        monkeypatch.setenv('GKGNET_TIMM_DRIVE_ENDPOINT', endpoint)
        with pytest.raises(NotDownloaded, match='Error|Protocol'):
            download('the_id', folder, 'net')


def test_a_full_disk(drive, folder, monkeypatch):
    usage = types.SimpleNamespace(free=SIZE)
    monkeypatch.setattr(drive_module, 'shutil', types.SimpleNamespace(disk_usage=lambda path: usage))
    with pytest.raises(OSError, match="The disk of '.*cache' has less than 4 MB"):
        download('the_id', folder, 'net')
    assert not any('bytes=' in request for request in drive.requests) and not parts(folder)


def test_no_network(folder, monkeypatch):
    monkeypatch.setenv('GKGNET_TIMM_DRIVE_ENDPOINT', 'http://127.0.0.1:9')
    with pytest.raises(OSError, match='ConnectError'):
        download('the_id', folder, 'net')
    assert not parts(folder)


def test_google_and_its_mirror_are_the_only_hosts(monkeypatch):
    assert drive_module._places() == {('https', 'drive.google.com'), ('https', 'drive.usercontent.google.com')}
    monkeypatch.setenv('GKGNET_TIMM_DRIVE_ENDPOINT', 'http://mirror:8000')
    assert drive_module._places() == {('http', 'mirror:8000')}
