"""Small pictures inside a page."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from gkgnet_timm.data import Decoder
from gkgnet_timm.report import thumbnails
from gkgnet_timm.report.thumbnails import Album, images_of_files


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def opened(address):
    start, _, code = address.partition(',')
    assert start == 'data:image/jpeg;base64'
    return Image.open(io.BytesIO(base64.b64decode(code)))


@pytest.mark.parametrize('size, expected', [((640, 320), (320, 160)), ((40, 30), (40, 30)), ((5, 3000), (1, 320))])
def test_few_thumbnails_are_large(size, expected):
    assert opened(Album(10).add(noise(*size))).size == expected


@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_colours_stay(mode):
    small = opened(Album(1).add(Image.new(mode, (50, 50), 'gray')))
    assert small.mode == 'RGB' and np.abs(np.asarray(small).astype(int) - 128).max() <= 2


def test_many_thumbnails_have_a_bound(monkeypatch):
    """Noise is the worst there is for JPEG."""
    monkeypatch.setattr(thumbnails, 'MOST_BYTES', 100_000)
    addresses = [Album(40).add(noise(300, 200, seed)) for seed in range(40)]
    assert sum(map(len, addresses)) <= 100_000
    album = Album(20)  # more come than were announced
    addresses = [album.add(noise(300, 200, seed)) for seed in range(40)]
    assert sum(len(address or '') for address in addresses) <= 100_000
    assert None in addresses and sum(address is not None for address in addresses) >= 20


def test_files_are_looked_for_in_folders(tmp_path, monkeypatch):
    for folder, colour in (('images', 'red'), ('data', 'blue')):
        (tmp_path / folder / 'a').mkdir(parents=True)
        Image.new('RGB', (8, 8), colour).save(tmp_path / folder / 'a' / '1.png')
    Image.new('RGB', (8, 8), 'lime').save(tmp_path / 'here.png')
    (tmp_path / 'data' / 'broken.png').write_bytes(b'text')
    monkeypatch.chdir(tmp_path)
    files = ['a/1.png', 'here.png', 'nowhere.png', 'broken.png', 'a', str(tmp_path / 'here.png')]
    read = images_of_files(files, ['images', 'data'], Decoder())
    pixels = [image and image.getpixel((0, 0)) for image in map(read, range(len(files)))]
    assert pixels == [(255, 0, 0), (0, 255, 0), None, None, None, (0, 255, 0)]
    assert images_of_files(['images/a/1.png'], [None, None], Decoder())(0).getpixel((0, 0)) == (255, 0, 0)
