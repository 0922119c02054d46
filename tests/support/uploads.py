"""Uploads of all kinds, good and bad, a small model that scores them, and a server of it."""

import io
import threading
import zlib
from contextlib import contextmanager

import numpy as np
import torch
import uvicorn
from PIL import Image
from tiny import create

from gkgnet_timm.serving.scorer import Scorer
from gkgnet_timm.serving.server import Server, bind, url_of

NAMES = ['a', 'b', '<b>', 'd;e', 'ö']
THRESHOLDS = [0.5, 0.47, 0.52, 0.49, 0.6]


def create_scorer(**options):
    """A small model for images of 64 x 64 whose scores are near 0.5, where they differ."""
    model = create(dtype=torch.float32)
    model.pretrained_cfg = model.default_cfg = dict(model.pretrained_cfg, input_size=(3, 64, 64), pool_size=(2, 2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith('head'):
                parameter.mul_(0.05)
    return Scorer(model, NAMES, THRESHOLDS, device='cpu', **options)


def jpeg(**options):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'JPEG', **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(exif=exif)


def saved(kind, mode, size=(40, 30), **options):
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels, 'RGBA').convert('RGB' if mode == 'CMYK' else mode if mode != 'I;16' else 'L')
    if mode == 'CMYK':
        image = image.convert('CMYK')
    if mode == 'I;16':
        image = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + pixels[..., 1])
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def animation():
    frames = [Image.new('RGB', (32, 24), color) for color in ('red', 'green', 'blue')]
    file = io.BytesIO()
    frames[0].save(file, 'GIF', save_all=True, append_images=frames[1:])
    return file.getvalue()


def saved_header(width, height):
    """A PNG that says it is large, without its pixels: the head alone has to be enough."""
    small = saved('PNG', 'RGB')
    head = b'IHDR' + width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + small[24:29]
    return small[:12] + head + zlib.crc32(head).to_bytes(4, 'big') + small[33:]


def saved_gif_header(width, height):
    small = animation()
    return small[:6] + width.to_bytes(2, 'little') + height.to_bytes(2, 'little') + small[10:]


READABLE = {
    'plain.jpg': jpeg,
    'turned.jpg': turned,
    'sixteen.png': lambda: saved('PNG', 'I;16'),
    'cmyk.jpg': lambda: saved('JPEG', 'CMYK'),
    'transparent.png': lambda: saved('PNG', 'RGBA'),
    'moving.gif': animation,
    'sixteen.tif': lambda: saved('TIFF', 'I;16'),
    'photo.webp': lambda: saved('WEBP', 'RGB'),
    'thin.png': lambda: saved('PNG', 'RGB', (300, 2)),
}
UNREADABLE = {
    'text.txt': (lambda: b'hello', 'not an image'),
    'nothing.jpg': (lambda: b'', 'it is empty'),
    'cut.jpg': (lambda: jpeg()[:700], 'truncated'),
    'vector.eps': (lambda: saved('EPS', 'RGB'), 'format is EPS'),
    'huge.png': (lambda: saved_header(20_000, 20_000), '400,000,000 pixels, this server reads images of up to 1,000,0'),
    'bomb.gif': (lambda: saved_gif_header(60_000, 60_000), '3,600,000,000 pixels'),
}


def post(client, contents, path='/predict', **options):
    return client.post(path, files=[('files', (name, content)) for name, content in contents], **options)


@contextmanager
def serving(app, **options):
    """The address of a server of an application, in a thread."""
    address = bind('127.0.0.1', 0)
    server = Server(uvicorn.Config(app, log_level='warning', log_config=None, **options))
    thread = threading.Thread(target=server.run, kwargs=dict(sockets=[address]))
    thread.start()
    try:
        yield url_of(address)
    finally:
        server.should_exit = True
        thread.join()
