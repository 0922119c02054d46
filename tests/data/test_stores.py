"""Images at URLs: what is found, read, tried again, and never shown."""

import pickle
from operator import attrgetter

import fsspec
import numpy as np
import pytest
from PIL import Image
from stores import ImageServer
from torch.utils.data import DataLoader

from gkgnet_timm.data import remote
from gkgnet_timm.data.address import Address, named
from gkgnet_timm.data.decode import Decoder
from gkgnet_timm.data.images import ImageFiles, drop_duplicates, find_images
from gkgnet_timm.data.stream import open_stream
from gkgnet_timm.runtime import FileWarning, is_url

pytest.importorskip('aiohttp')
WAITS = (0.01, 0.02)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server with a.png, b.jpg, c.png and no.jpg, which is not an image, in a world of three tries."""
    for i, name in enumerate(('a.png', 'b.jpg', 'c.png')):
        Image.effect_noise((50 + i, 40), 90).convert('RGB').save(tmp_path / name)
    (tmp_path / 'no.jpg').write_bytes(b'no image')
    monkeypatch.setattr(remote, 'WAITS', WAITS)
    monkeypatch.setattr(remote, 'read_again', remote._Reader())
    with ImageServer(tmp_path) as server:
        yield server


@pytest.fixture
def memory():
    """A store in memory."""
    store = fsspec.filesystem('memory')
    yield store
    store.rm('/', recursive=True)


def read(*urls):
    """Sizes of images, and why they cannot be read."""
    return list(ImageFiles([named(url) for url in urls], lambda image: image.size, Decoder()))


@pytest.mark.parametrize(
    'path, expected',
    [
        ('memory://bucket/a.jpg', True),
        ('https://host/a.jpg?b=c', True),
        ('C:\\photos\\a.jpg', False),
        ('C:/photos//a.jpg', False),
        ('c://a.jpg', False),
        ('a::b.jpg', False),
        ('./s3://a.jpg', False),
        ('a.jpg', False),
    ],
)
def test_what_is_a_url(path, expected):
    assert is_url(path) == expected
    assert isinstance(named(path), Address) == expected


@pytest.mark.parametrize(
    'url, name',
    [
        ('https://user:pass@host:8080/a b.jpg?X-Amz-Signature=1#token=2', 'https://host:8080/a b.jpg'),
        ('https://token@host/a@b:c.jpg', 'https://host/a@b:c.jpg'),
        ('https://user:pa/ss@host/a.jpg', 'https://host/a.jpg'),
        ('https://host:8080/a@b.jpg', 'https://host:8080/a@b.jpg'),
        ('ftp://user:p@ss@host/a?b.jpg', 'ftp://host/a?b.jpg'),
        ('hf://datasets/org/name@main/a?b#c.jpg', 'hf://datasets/org/name@main/a?b#c.jpg'),
    ],
)
def test_names_have_no_credentials(url, name):
    address = named(url)
    assert address == name and address.url == url and named(address) is address
    assert pickle.loads(pickle.dumps(address)).url == url  # as for a worker process


def test_pixels_are_those_of_the_local_file(server, tmp_path):
    for name in ('a.png', 'b.jpg'):
        ((url, local),) = [[f'{server.url}/{name}', str(tmp_path / name)]]
        pixels = [np.asarray(ImageFiles([path], np.asarray, Decoder())[0][0]) for path in (url, local)]
        assert np.array_equal(*pixels)
    assert set(server.requests.values()) == {1}


@pytest.mark.parametrize(
    'path, requests, reason',
    [
        ('broken/2/a.png', 3, ''),
        ('reset/2/a.png', 3, ''),
        ('short/2/b.jpg', 3, ''),
        ('broken/3/a.png', 3, '503 Service Unavailable (tried 3 times)'),
        ('short/3/b.jpg', 3, 'Response payload is not completed'),
        ('status/429/a.png', 3, '429 Too Many Requests (tried 3 times)'),
        ('status/404/a.png', 1, 'there is no such file'),
        ('status/403/a.png', 1, '403 Forbidden'),
        ('status/302/a.png', 1, '403 Forbidden'),
        ('no.jpg', 1, 'it is not an image of a known format'),
        ('hang/a.png', 3, 'no answer in time (tried 3 times)'),
        ('endless/a.png', 1, 'it has more than 1 MiB'),
    ],
)
@pytest.mark.filterwarnings('ignore::gkgnet_timm.runtime.FileWarning')
def test_retries(path, requests, reason, server, monkeypatch):
    """What may pass is tried again, what stays is not, and the reason never has the credentials of the URL."""
    monkeypatch.setitem(remote.TIMEOUT, 'sock_read', 0.2)
    monkeypatch.setattr(remote, 'MOST_BYTES', 1 << 20)
    server.elsewhere = f'{server.url}/status/403/a.png?X-Amz-Signature=SECRET2'
    ((size, said),) = read(f'{server.url.replace("//", "//user:SECRET@")}/{path}?key=SECRET')
    assert said.startswith(reason) and bool(said) == bool(reason) and 'SECRET' not in said and 'http' not in said
    assert size == ((32, 32) if reason else (51, 40) if path.endswith('.jpg') else (50, 40))
    assert server.requests[f'/{path}?key=SECRET'] == requests
    assert server.sent < 100 << 20


@pytest.mark.parametrize('way, requests', [('', 1), ('broken/2/', 3), ('short/2/', 3), ('ranges/4/', 5)])
def test_a_stream_goes_on_where_a_connection_broke(way, requests, server, tmp_path):
    """Whether the server knows ranges or not, and more often than one place is tried."""
    content = np.random.default_rng(0).bytes(12_000_000)
    (tmp_path / 's.bin').write_bytes(content)
    with open_stream(named(f'{server.url}/{way}s.bin?key=SECRET')) as stream:
        assert stream.read() == content
    assert server.requests == {f'/{way}s.bin?key=SECRET': requests}


def test_a_stream_of_another_store(memory):
    content = np.random.default_rng(0).bytes(3_000_000)
    memory.pipe('/s.bin', content)
    with open_stream(named('memory://s.bin')) as stream:
        assert stream.read() == content


def test_a_store_that_is_gone_is_said_once(server):
    gone = [f'{server.url}/broken/9/{i}.png?key=SECRET' for i in range(3)]
    with pytest.warns(FileWarning, match=r"0.png': 503 .* \(tried 3 times\). Is its store there?") as caught:
        read(*gone)
    (said,) = [str(warning.message) for warning in caught if warning.category is FileWarning]
    assert 'SECRET' not in said
    read(f'{server.url}/a.png')  # it is back
    with pytest.warns(FileWarning):
        read('http://127.0.0.1:1/a.png')


def test_error_that_quotes_what_is_secret():
    def refuse():
        raise ValueError('no such user: USER:PASS')

    assert remote._reason(ValueError('bad query KEY=1'), 'https://host/a?KEY=1') == 'ValueError'
    with pytest.raises(OSError, match='^ValueError$') as error:
        remote._Reader()('ftp://USER:PASS@host/a.jpg', refuse)
    assert error.value.__cause__ is None


def test_workers_have_connections_of_their_own(server, tmp_path):
    """Also where this process has one before they start."""
    assert read(f'{server.url}/a.png') == [((50, 40), '')]
    paths = [f'{server.url}/{name}' for name in ('a.png', 'b.jpg', 'c.png')] * 4
    loader = DataLoader(
        ImageFiles(paths, attrgetter('size'), Decoder()), 1, num_workers=2, collate_fn=tuple, timeout=60
    )
    assert list(loader) == [(((50 + i, 40), ''),) for i in range(3)] * 4


def test_folders_and_patterns_of_a_store(server, tmp_path, memory):
    for name in ('p/b.jpg', 'p/a.PNG', 'p/.hidden.png', 'p/.h/a.png', 'p/deep/c.png', 'p/notes.txt', 'p/[1]?.png'):
        memory.pipe(f'/{name}', (tmp_path / ('b.jpg' if name.endswith('.jpg') else 'a.png')).read_bytes())
    everything = [f'memory://p/{name}' for name in ('[1]?.png', 'a.PNG', 'b.jpg', 'deep/c.png')]
    for argument in ('memory://p', 'memory://p/', 'memory://p/**'):
        assert find_images([argument]) == everything
    assert find_images(['memory://p/*']) == everything[:3]
    assert find_images(['memory://p/deep/*.png', 'memory://p/b.jpg', 'memory://p']) == [
        everything[3],
        everything[2],
        *everything[:2],
    ]
    assert find_images(['memory://p/[1]?.png']) == everything[:1]
    assert {said for _, said in read(*everything)} == {''}
    for argument in ('memory://p/none.png', 'memory://none', 'memory://none/*'):
        with pytest.raises(FileNotFoundError, match=f'Nothing found: .{argument[:13]}'):
            find_images([argument])
    assert read('memory://p/none.png')[0][1] == 'there is no such file'


def test_a_list_of_both_kinds(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    urls = [f'{server.url}/a.png?sig=1', f'{server.url}/missing.png']
    (tmp_path / 'list.txt').write_text('\n'.join([*urls, 'b.jpg', urls[0]]))
    files = find_images(['list.txt', './b.jpg', urls[0]])
    assert files == [f'{server.url}/a.png', urls[1], 'b.jpg'] and not server.requests
    assert drop_duplicates(files, done=[f'{server.url}/a.png']) == files[1:]


@pytest.mark.parametrize(
    'urls, message',
    [
        (['dropbox://a/b.jpg'], 'Images at dropbox:// need a package that is missing: pip install dropboxdrivefs'),
        (['nothing://a/b.jpg'], 'nothing:// is no kind of store that fsspec knows'),
        (['simplecache::https://u:SECRET@h/a?SECRET'], 'simplecache::...: caches and archives of fsspec are not read'),
        (['zip://a.jpg::https://u:SECRET@h/a.zip'], 'zip://a.jpg::...: caches'),
        (['https://host/folder/'], "'https://host/folder/': web servers list no folders, give a .txt file"),
        (['https://host/*.jpg'], 'web servers list no folders'),
        (['https://host/list.txt'], 'is read from a local file'),
        (['memory://a.json'], 'is read from a local file'),
        (['https://host/a?id=SECRET1', 'https://host/a?id=SECRET2'], "'https://host/a' is the name of several images"),
    ],
)
def test_what_is_refused(urls, message):
    with pytest.raises(ValueError, match=message.replace('.', r'\.')) as error:
        find_images(urls)
    assert 'SECRET' not in str(error.value)


def test_a_store_that_cannot_be_listed(monkeypatch):
    def info(*args):
        raise ConnectionResetError('reset by peer')

    monkeypatch.setattr(fsspec.get_filesystem_class('memory'), 'info', info)
    with pytest.raises(OSError, match=r"^Cannot list 'memory://h/a': reset by peer\.$"):
        find_images(['memory://SECRET:SECRET@h/a'])
