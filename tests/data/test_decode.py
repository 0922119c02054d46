"""Pixels of image files of all kinds, the same in training, evaluation and prediction."""

import io
import pickle
import struct
import sys
import warnings
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from gkgnet_timm.data import (
    BadImageError,
    Decoder,
    create_dataset,
    create_eval_loader,
    create_train_loader,
    create_train_transform,
    start_epoch,
)
from gkgnet_timm.data.decode import reading_notes
from gkgnet_timm.data.images import ImageFiles, describe_unreadable
from gkgnet_timm.runtime import FileWarning

CPU = torch.device('cpu')
GREY = (np.arange(20 * 30).reshape(20, 30) % 256).astype(np.uint8)
COLOUR = np.dstack([GREY, GREY[::-1], 255 - GREY])
EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n'
ALPHA = np.where(np.arange(30) < 10, 0, 255) + np.zeros((20, 1), int)


def png(levels, bits=16, transparent=()):
    """A PNG of (H, W, C) levels, which Pillow cannot write."""
    height, width, channels = levels.shape
    header = struct.pack('>IIBBBBB', width, height, bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b''.join(b'\0' + (row.astype('>u2').tobytes() if bits == 16 else row.tobytes()) for row in levels)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    if transparent:
        chunks.insert(1, (b'tRNS', struct.pack(f'>{len(transparent)}H', *transparent)))
    parts = (
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def tiff(levels, *, order='<', photometric=None, planar=1, extra=()):
    """An uncompressed TIFF of (H, W, C) levels of any type."""
    height, width, channels = levels.shape
    content = np.moveaxis(levels, 2, 0) if planar == 2 else levels
    content = content.astype(levels.dtype.newbyteorder(order)).tobytes()
    photometric = photometric if photometric is not None else (2 if channels > 2 else 1)
    samples = {'u': 1, 'i': 2, 'f': 3}[levels.dtype.kind]
    parts = planar == 2 and channels or 1
    size = len(content) // parts
    tags = {256: [width], 257: [height], 258: [8 * levels.itemsize] * channels, 259: [1], 262: [photometric]}
    tags |= {273: [8 + i * size for i in range(parts)], 277: [channels], 278: [height], 279: [size] * parts}
    tags |= {284: [planar], **({338: list(extra)} if extra else {}), 339: [samples] * channels}
    start = 8 + len(content)
    after, entries = start + 2 + 12 * len(tags) + 4, b''
    tail = b''
    for tag, values in sorted(tags.items()):
        data = struct.pack(f'{order}{len(values)}I', *values)
        if len(values) > 1:
            tail, data = tail + data, struct.pack(f'{order}I', after + len(tail))
        entries += struct.pack(f'{order}HHI', tag, 4, len(values)) + data
    head = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', start)
    return head + content + struct.pack(f'{order}H', len(tags)) + entries + bytes(4) + tail


def saved(pixels, kind, mode=None, **kwargs):
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **kwargs)
    return buffer.getvalue()


def read(content, **kwargs):
    """Pixels, and the reason why there are none."""
    image, reason = Decoder(**kwargs).read(lambda: io.BytesIO(content))
    return np.asarray(image), reason


def scaled(pixels, top, dtype=np.uint16):
    return (pixels / 255 * top).round().astype(dtype)


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    'encode',
    [
        lambda levels: saved(levels[..., 0], 'PNG'),
        lambda levels: png(levels[..., :1]),
        png,
        lambda levels: saved(levels[..., 0], 'TIFF'),
        lambda levels: saved(levels[..., 0], 'TIFF', compression='tiff_lzw'),
        tiff,
        lambda levels: tiff(levels, order='>'),
        lambda levels: tiff(np.dstack([levels, levels[..., :1]]), extra=[0]),  # a fourth channel of no meaning
        lambda levels: tiff(levels[..., :1].astype(np.int16)) if levels.max() < 2**15 else tiff(levels[..., :1]),
        lambda levels: tiff(levels[..., :1].astype(np.uint32)),
        lambda levels: tiff(levels[..., :1].astype(np.float32)),
        lambda levels: tiff(levels[..., :1].astype(np.float32), order='>'),
        lambda levels: b'P5 30 20 65535\n' + levels[..., 0].astype('>u2').tobytes(),
    ],
)
def test_bit_depth(encode, bits):
    """Levels of a data set's bit depth become those of 8 bits, whatever file they are in."""
    content = encode(scaled(COLOUR, 2**bits - 1))
    pixels, reason = read(content, bit_depth=bits)
    assert not reason
    expected = COLOUR if np.ptp(pixels, axis=2).any() else np.dstack([GREY] * 3)
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize('encode', [png, tiff, lambda levels: saved(levels[..., 0], 'PNG')])
def test_all_16_bits_without_a_bit_depth(encode):
    """Whatever the levels are: the range is not guessed from them."""
    for top in (65535, 40000):
        pixels, _ = read(encode(scaled(COLOUR, top)))
        expected = COLOUR if np.ptp(pixels, axis=2).any() else np.dstack([GREY] * 3)
        assert np.abs(pixels - (expected * (top / 65535))).max() <= 0.51


def test_files_that_name_their_depth():
    """A PGM with its largest level, a TIFF of 12 bits."""
    pgm = b'P5 30 20 4095\n' + scaled(GREY, 4095).astype('>u2').tobytes()
    for kwargs in ({}, dict(bit_depth=12)):
        pixels, reason = read(pgm, **kwargs)
        assert not reason and np.abs(pixels[..., 0].astype(int) - GREY).max() <= 1
    ppm = b'P6 30 20 65535\n' + scaled(COLOUR, 4095).astype('>u2').tobytes()
    assert '--bit-depth 12 does not work for colour PPM' in read(ppm, bit_depth=12)[1]


def test_grey_tiff_with_white_at_0():
    assert np.array_equal(read(tiff(scaled(255 - GREY[..., None], 65535), photometric=0))[0][..., 0], GREY)


def test_8_bits_stay_as_they_are():
    for kwargs in ({}, dict(bit_depth=12)):
        assert np.array_equal(read(saved(COLOUR, 'PNG'), **kwargs)[0], COLOUR)


@pytest.mark.parametrize('bit_depth', [None, 12])
@pytest.mark.parametrize('masks', [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)], ids=['5-6-5', '5-5-5'])
def test_bmp_of_16_bits_a_pixel(masks, bit_depth):
    levels = [(i * 8, 255 - i * 8, 128) for i in range(32)]
    shifts = [mask.bit_length() - 8 for mask in masks]
    row = [sum((v << s if s >= 0 else v >> -s) & mask for v, s, mask in zip(rgb, shifts, masks)) for rgb in levels]
    pixels = np.tile(np.array(row, '<u2'), (4, 1)).tobytes()
    head = struct.pack('<IiiHHIIiiII3I', 40, 32, 4, 1, 16, 3, len(pixels), 0, 0, 0, 0, *masks)
    bmp = struct.pack('<2sIHHI', b'BM', 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels
    pixels, reason = read(bmp, bit_depth=bit_depth)
    assert reason == '' and np.abs(pixels[2].astype(int) - levels).max() < 10


def test_lab_with_a_model_of_grey_images():
    file = io.BytesIO()
    Image.merge('LAB', [Image.new('L', (9, 9), level) for level in (128, 128, 128)]).save(file, 'TIFF')
    for mode, shape in (('RGB', (9, 9, 3)), ('L', (9, 9))):
        pixels, reason = read(file.getvalue(), mode=mode)
        assert (pixels.shape, reason) == (shape, '') and np.abs(pixels.astype(int) - 119).max() < 5


def jpeg_2000(pixels, depth=None):
    """A file of JPEG 2000, whose head names another depth, by which its levels are divided."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'JPEG2000', irreversible=depth is not None)
    content = bytearray(file.getvalue())
    place = content.index(b'\xff\x4f\xff\x51') + 42
    if depth:
        content[place : place + pixels[0, 0].size * 3 : 3] = [depth - 1] * pixels[0, 0].size
    return bytes(content)


@pytest.mark.filterwarnings('error')
def test_jpeg_2000_of_16_bits():
    levels = np.tile(np.linspace(0, 4095, 64).astype('u2'), (64, 1))
    named = jpeg_2000(levels * 16, 12)
    for content, bit_depth in ((jpeg_2000(levels), 12), (named, None), (named, 12), (named, 16)):
        pixels, reason = read(content, bit_depth=bit_depth)
        assert reason == '' and np.abs(pixels[..., 0] - levels / 4095 * 255).max() < 1
    colour = jpeg_2000(COLOUR, 16)
    assert (
        '--bit-depth 12 does not work for colour JPEG2000 files of 16 bits, save it as PNG'
        in read(colour, bit_depth=12)[1]
    )
    assert read(jpeg_2000(COLOUR), bit_depth=12)[1] == ''


def test_plain_pgm_of_16_bits():
    levels = np.tile(np.linspace(0, 4095, 64).astype(int), (2, 1))
    for top in (4095, 65535):
        text = f'P2 64 2 {top} ' + ' '.join(map(str, levels.flat))
        pixels, reason = read(text.encode(), bit_depth=12)
        assert reason == '' and pixels.max() == 255


@pytest.mark.parametrize('order', '<>')
def test_floats_from_0_to_1(order):
    levels = (GREY / 255).astype(np.float32)[..., None]
    assert np.array_equal(read(tiff(levels, order=order))[0][..., 0], GREY)
    with pytest.warns(FileWarning, match='0.996 of 4095|highest level is 1 of 4095'):
        assert read(tiff(levels), bit_depth=12)[0].max() == 0
    assert np.array_equal(read(tiff(levels * 1.1 - 0.05))[0][..., 0], (GREY * 1.1 - 12.75).clip(0, 255).round())


def iptc(content):
    """A grey image of 4x4 pixels whose data are another image."""
    fields = [(3, 60, b'\1\0'), (3, 20, b'\4'), (3, 30, b'\4'), (3, 120, b'\5'), (8, 10, content)]
    return b''.join(struct.pack('>BBBH', 0x1C, *kind, len(data)) + data for *kind, data in fields)


@pytest.mark.parametrize(
    'content, message',
    [
        (tiff(scaled(GREY, 4095, np.float32)[..., None]), 'levels are 0 to 4095, expected 0 to 1, or --bit-depth N'),
        (tiff(np.float32([[[-3.0], [1]]])), 'levels are -3 to 1, expected 0 to 1'),
        (tiff(np.float32([[[np.nan], [1]]])), 'nan or infinite'),
        (tiff(np.int16([[[-1000], [3000]]])), 'levels are -1000 to 3000, expected none below 0'),
        (tiff(scaled(COLOUR, 4095), planar=2), '16 bits with its colours in separate planes'),
        (png(scaled(COLOUR, 4095))[:300], "truncated"),
        (EPS, 'it is in EPS format'),  # a program
        (iptc(EPS), 'it is in IPTC format'),
    ],
)
def test_what_cannot_be_read_says_why(content, message):
    pixels, reason = read(content)
    assert reason and message in reason and '\n' not in reason and not pixels.any()


def test_levels_above_the_bit_depth_are_said():
    with pytest.warns(FileWarning, match='65535 of 4095, so that it is white in part. --bit-depth 12 is too small'):
        read(png(scaled(COLOUR, 65535)), bit_depth=12)


def test_images_that_use_little_of_their_range_are_named(tmp_path):
    decoder = Decoder(warnings_left=2)
    for name, top in (('dark', 8000), ('bright', 9000), ('black', 4095), ('more', 100)):
        (tmp_path / f'{name}.png').write_bytes(saved(scaled(GREY, top), 'PNG'))
    (tmp_path / 'night.png').write_bytes(saved(GREY // 16, 'PNG'))  # 8 bits
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for name in ('night', 'dark', 'bright', 'black', 'more'):
            decoder.read(partial(open, tmp_path / f'{name}.png', 'rb'))
    first, last = [str(warning.message) for warning in caught]
    assert f"'{tmp_path}/dark.png': its highest level is 8000 of 65535" in first and 'such as 13: --bit-depth' in first
    assert f"'{tmp_path}/black.png'" in last and last.endswith('check-data names all.')


# transparency

HALF = np.where(ALPHA == 0, 0, 128)


@pytest.mark.parametrize(
    'content',
    [
        saved(np.dstack([COLOUR, ALPHA]).astype(np.uint8), 'PNG'),
        saved(np.dstack([COLOUR, ALPHA]).astype(np.uint8), 'WEBP', lossless=True),
        saved(np.dstack([COLOUR, ALPHA]).astype(np.uint8), 'TIFF'),
        saved(np.dstack([GREY, ALPHA]).astype(np.uint8), 'PNG'),
        png(np.dstack([COLOUR.astype(int) * 257, ALPHA * 257])),
        png(np.dstack([GREY.astype(int) * 257, ALPHA * 257])),
        tiff(np.dstack([COLOUR.astype(int) * 257, ALPHA * 257]).astype(np.uint16), extra=[2]),
        saved(Image.fromarray(np.where(ALPHA == 0, 7, GREY | 8).astype(np.uint8)), 'PNG', transparency=7),
        saved(Image.fromarray(np.where(ALPHA == 0, 7, GREY | 8).astype(np.uint8)).convert('P'), 'PNG', transparency=7),
        saved(Image.fromarray(np.where(ALPHA == 0, 7, GREY | 8).astype(np.uint8)).convert('P'), 'GIF', transparency=7),
        png(np.where(ALPHA == 0, 7, GREY.astype(int) | 8)[..., None] * 257, transparent=[7 * 257]),
        png(np.where(ALPHA[..., None] == 0, [1, 2, 3], COLOUR.astype(int) | 8) * 257, transparent=[257, 514, 771]),
    ],
)
@pytest.mark.parametrize('background, colour', [(None, (255,) * 3), ('#102030', (16, 32, 48)), ('black', (0, 0, 0))])
def test_transparency_shows_the_background(content, background, colour):
    pixels, reason = read(content, background=background)
    assert not reason and (pixels[:, :10] == colour).all()
    shown, grey = pixels[:, 10:], GREY[:, 10:]
    assert any(np.array_equal(shown[..., 0], expected) for expected in (grey, grey | 8))


@pytest.mark.parametrize('bits', [2, 4])
def test_transparent_level_of_few_bits(bits):
    packed = np.full((2, 4, 1), 0b01101101 if bits == 2 else 0x69, dtype=np.uint8)
    levels = packed.reshape(2, 4)
    width = 4 * 8 // bits
    header = struct.pack('>IIBBBBB', width, 2, bits, 0, 0, 0, 0)
    rows = b''.join(b'\0' + row.tobytes() for row in levels)
    chunks = [(b'IHDR', header), (b'tRNS', struct.pack('>H', 1 if bits == 2 else 6))]
    chunks += [(b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    parts = (
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    )
    pixels, _ = read(b'\x89PNG\r\n\x1a\n' + b''.join(parts), background='red')
    first = (pixels == (255, 0, 0)).all(axis=2)[0, :4].tolist()
    assert first == ([True, False, False, True] if bits == 2 else [True, False, True, False])


def test_partial_transparency_mixes():
    pixels, _ = read(saved(np.full((2, 2, 4), (100, 100, 100, 128), np.uint8), 'PNG'), background='black')
    assert pixels[0, 0].tolist() == [50] * 3


def test_background_is_a_colour():
    with pytest.raises(ValueError, match="--background is 'reddish', expected a colour"):
        Decoder(background='reddish')
    with pytest.raises(ValueError, match='--bit-depth must be from 8 to 32, got 4'):
        create_dataset('demo', None, 'train', bit_depth=4)


# one decoder


SQUARE = COLOUR[:, 5:25]  # of the size of the model, so that transforms leave it as it is
CASES = {
    'deep.png': png(scaled(SQUARE, 4095)),
    'grey.png': saved(scaled(SQUARE[..., 0], 4095), 'PNG'),
    'float.tif': tiff(scaled(SQUARE[..., :1], 4095, np.float32)),
    'clear.png': saved(np.dstack([SQUARE, ALPHA[:, 5:25]]).astype(np.uint8), 'PNG'),
    'photo.jpg': saved(SQUARE, 'JPEG'),
}


@pytest.mark.parametrize('channels', [1, 3])
def test_the_same_pixels_everywhere(tmp_path, channels):
    """In training, evaluation and prediction, in processes or not."""
    for name, content in CASES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / 'table.csv').write_text('file,a\n' + ''.join(f'{name},1\n' for name in CASES))
    config = dict(mean=(0.0,) * channels, std=(1 / 255,) * channels, input_size=(channels, 20, 20))
    options = dict(bit_depth=12, background='#ff8000')
    results = []
    for workers in (0, 1):
        dataset = create_dataset('csv', tmp_path, 'table.csv', **options)
        transform = create_train_transform(config['input_size'], no_aug=True, interpolation='bicubic')
        loader = create_train_loader(dataset, config, transform, 8, CPU, workers)
        start_epoch(loader, 0, 0, 0)
        ((images, _),) = loader
        order = list(getattr(loader.sampler, 'sampler', loader.sampler))  # that of workers which live on wraps it
        results.append(images[[order.index(i) for i in range(len(order))]])
        evaluated = config | dict(interpolation='bicubic', crop_pct=1.0, crop_mode='center')
        ((images, _),) = create_eval_loader(dataset, evaluated, 8, CPU, workers)
        results.append(images)
        decoder = Decoder(**options, mode='RGB' if channels == 3 else 'L')
        files = ImageFiles([str(tmp_path / name) for name in CASES], dataset.transform, decoder)
        results.append(torch.stack([torch.as_tensor(pixels) for pixels, _ in files]).float())
    assert results[0].shape == (5, channels, 20, 20) and results[0].std(dim=(1, 2, 3)).min() > 10
    if channels == 3:
        assert np.array_equal(results[0][0].permute(1, 2, 0).round().numpy(), SQUARE)
        assert results[0][3][:, 0, 0].round().tolist() == [255, 128, 0]
    for images in results[1:]:
        assert torch.equal(images.round(), results[0].round())


def test_grey_images():
    pixels, _ = read(CASES['deep.png'], bit_depth=12, mode='L')
    assert np.array_equal(pixels, np.asarray(Image.fromarray(SQUARE).convert('L')))


@pytest.mark.parametrize(
    'kwargs', [dict(cropmix=1.0), dict(reprob=1.0), dict(auto_augment='trivial'), dict(auto_augment='rand-m9-mstd0.5')]
)
def test_grey_images_are_augmented(kwargs):
    transform = create_train_transform((1, 32, 32), **kwargs, mean=(0.5,), std=(0.2,))
    for _ in range(12):
        pixels = transform(Image.fromarray(GREY))
        assert pixels.shape == (1, 32, 32) and pixels.dtype == torch.uint8


def test_stream_has_the_pixels_of_files(shards):
    dataset = create_dataset(
        'wds/x', str(shards), 'x-{0..1}.tar|10', target_key='indices', target_format='indices', num_classes=3
    )
    config = dict(mean=(0.0,), std=(1 / 255,), input_size=(1, 32, 32), interpolation='bicubic', crop_pct=1.0)
    images = torch.cat(
        [images for images, _ in create_eval_loader(dataset, config | dict(crop_mode='squash'), 4, CPU, 1)]
    )
    assert images.shape == (10, 1, 32, 32) and images.mean(dim=(1, 2, 3)).round().tolist() == [
        20 * i for i in range(10)
    ]
    clear = Image.fromarray(np.full((4, 4, 2), (9, 0), np.uint8))
    assert np.asarray(pickle.loads(pickle.dumps(dataset.transform)).decoder.convert(clear)).min() == 255


def test_decoder_of_a_model():
    """What is not given is as in training, a difference is said."""
    cfg = dict(notes=['by hand', *reading_notes(12, '#102030')])
    trained = Decoder().for_model(cfg)
    assert (trained.bits, trained.color, trained.differences()) == (12, (16, 32, 48), [])
    other = Decoder(10, 'white').for_model(cfg)
    assert (other.bits, other.color) == (10, (255,) * 3)
    assert other.differences() == [
        'bit_depth is 10, the model was trained with 12',
        'background is white, the model was trained with #102030',
    ]
    assert Decoder(12).for_model(dict(notes=reading_notes(None, None))).differences() == [
        'bit_depth is 12, the model was trained with full'
    ]
    for notes in (None, (), 'text', 3, ['x']):
        assert Decoder(12).for_model(dict(notes=notes)).differences() == []
    for note in ('bit_depth=99', 'bit_depth=x', 'background=x'):
        with pytest.raises(ValueError, match='The model has notes'):
            Decoder().for_model(dict(notes=[note]))
    assert replace(trained, mode='L').bits == 12


# bad images


@pytest.mark.parametrize(
    'error', [RuntimeError, NotImplementedError, ZeroDivisionError, KeyError, struct.error, RecursionError]
)
@pytest.mark.parametrize('place', ['decoder', 'transform'])
def test_whatever_is_raised_makes_a_bad_image(tmp_path, monkeypatch, error, place):
    (tmp_path / 'image.png').write_bytes(saved(COLOUR, 'PNG'))
    (tmp_path / 'table.csv').write_text('file,a\nimage.png,1\n')

    def fail(image, *args):
        if image.size != (32, 32):
            raise error('by the file')
        return np.asarray(image)

    dataset = create_dataset('csv', tmp_path, 'table.csv')
    if place == 'decoder':
        monkeypatch.setattr('gkgnet_timm.data.decode.read_levels', fail)
    else:
        dataset.transform = fail
    with pytest.raises(BadImageError, match=f"Cannot read image '{tmp_path}/image.png': .*by the file"):
        dataset[0]
    dataset.bad_images = tmp_path / 'bad.txt'
    assert dataset[0][1].isnan().all() and (tmp_path / 'bad.txt').read_text() == f'{tmp_path}/image.png\n'


@pytest.mark.parametrize('error', [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_the_image_ends_a_run(tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    (tmp_path / 'image.png').write_bytes(saved(COLOUR, 'PNG'))
    monkeypatch.setattr('gkgnet_timm.data.decode.read_levels', fail)
    with pytest.raises(error):
        Decoder().read(partial(open, tmp_path / 'image.png', 'rb'))


def test_pixel_limit(monkeypatch):
    content = saved(COLOUR, 'PNG')
    message = 'it has 600 pixels, more than {}: to read it, give --max-pixels (in Python: max_pixels)'
    for limit in (599, 100):
        assert read(content, max_pixels=limit)[1] == message.format(limit)
    assert read(content, max_pixels=600)[1] == ''
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 200)
    assert read(content)[1] == message.format(400)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pixels, reason = Decoder(max_pixels=600).read(
            lambda: io.BytesIO(content), lambda image: image.crop((0, 0, 30, 20))
        )
    assert not reason and pixels.size == (30, 20) and Image.MAX_IMAGE_PIXELS == 200


HEIC = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'


def test_heic_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    assert "pip install 'gkgnet-timm[heif]'" in read(HEIC)[1]


def test_heic():
    heif = pytest.importorskip('pillow_heif')
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(np.full((64, 64, 3), (200, 100, 50), np.uint8))).save(buffer)
    pixels, reason = read(buffer.getvalue())
    assert not reason and np.abs(pixels.astype(int) - (200, 100, 50)).max() < 6


def test_more_than_1_percent_is_a_warning():
    assert describe_unreadable(1, 100) == '1 images could not be read and were left out'
    assert describe_unreadable(3, 200) == 'Warning: 3 images could not be read and were left out, 1.5 % of 200'
