"""Levels of images of more than 8 bits, which Pillow would cut off or clip."""

import re
from typing import Any, BinaryIO, NamedTuple, Optional

import numpy as np
from PIL import Image

__all__ = ['Levels', 'read_levels']

# TIFF tags
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
OTHER_BYTE = dict(L='B', B='L', N='B' if np.little_endian else 'L')  # by the byte that Pillow keeps of two
SEPARATE = 'a TIFF of 16 bits with its colours in separate planes: save it as PNG, or with them together'
OVERSHOOT = 1 / 8  # of floats beyond 0 and 1, as resampling leaves them


class Levels(NamedTuple):
    """Pixels of an image of more than 8 bits.

    Attributes:
        pixels: (H, W) or (H, W, C), from 0 to about `top`.
        alpha: (H, W) uint8, 0 where transparent, None if it has no transparency.
        top: Level of white.
        mode: Of the image that they become.
    """

    pixels: np.ndarray
    alpha: Optional[np.ndarray]
    top: float
    mode: str


def read_levels(image: Image.Image, file: Optional[BinaryIO], bits: Optional[int]) -> Optional[Levels]:
    """Return the levels of an opened image, None if it has no more than 8 bits.

    Args:
        image: Image as Pillow opens it, before it is decoded.
        file: Its file, None if it is decoded. Pillow has then cut off the lower 8 of 16 bits of colours.
        bits: Bit depth of the data set, None for that of the file.

    Raises:
        ValueError: If levels are outside of the range, or Pillow cannot give all bits that are asked for.
    """
    tile = image.tile[0] if file is not None and image.tile else None
    if image.mode == 'F':
        return _float_levels(np.asarray(image), bits)
    if image.mode == 'I' or image.mode.startswith('I;16'):
        return _grey_levels(image, None if _is_scaled(image, file, tile) else bits)
    # not the 16 bits of a whole pixel, as in BGR;16
    if tile is None or not re.search(';16[BLN]$', _raw_mode(tile)):
        return _check_depth(image, file, tile, bits)
    pixels = _colours(image, file, bits)
    if pixels is None:
        return None
    alpha = None
    if image.mode == 'RGBA':
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    elif 'transparency' in image.info:
        alpha = np.where((pixels == image.info['transparency']).all(axis=-1), 0, 65535)
    mode = image.mode if image.mode == 'CMYK' else 'L' if pixels.shape[-1] == 1 else 'RGB'
    if alpha is not None:
        # alpha has all 16 bits, unless its largest level is one that colours have
        opaque = 2**bits - 1 if bits and alpha.max() < 2**bits else 65535
        alpha = (alpha * (255 / opaque) + 0.5).astype(np.uint8)
    return Levels(pixels, alpha, 2 ** (bits or 16) - 1, mode)


def _raw_mode(tile: Any) -> str:
    return str(tile.args if isinstance(tile.args, str) else tile.args[0]) if tile.args else ''


def _is_scaled(image: Image.Image, file: Optional[BinaryIO], tile: Any) -> bool:
    """Whether Pillow has scaled levels to 16 bits from a depth that the file names."""
    if image.format == 'JPEG2000':
        return file is None or _depth_of_jpeg_2000(file) != 16
    return tile is not None and tile.codec_name in ('ppm', 'ppm_plain') and tile.args[-1] != 65535


def _depth_of_jpeg_2000(file: BinaryIO) -> Optional[int]:
    """Bits of the first component by the head of the code stream, None if it has none."""
    place = file.tell()
    file.seek(0)
    head = re.search(b'\xff\x4f\xff\x51.{38}(.)', file.read(1 << 16), re.S)
    file.seek(place)
    return None if head is None else (head[1][0] & 127) + 1


def _check_depth(image: Image.Image, file: Optional[BinaryIO], tile: Any, bits: Optional[int]) -> None:
    """Raise a ValueError if Pillow brings an image of 16 bits to 8 bits in a way that loses the range."""
    if bits not in (None, 16) and tile:
        is_ppm = tile.codec_name in ('ppm', 'ppm_plain') and tile.args[-1] == 65535
        if is_ppm or (image.format == 'JPEG2000' and _depth_of_jpeg_2000(file) == 16):
            raise ValueError(
                f'--bit-depth {bits} does not work for colour {image.format} files of 16 bits, save it as PNG'
            )
    if tile and image.format == 'TIFF' and 16 in image.tag_v2.get(BITS_PER_SAMPLE, ()):
        raise ValueError(SEPARATE)


def _float_levels(pixels: np.ndarray, bits: Optional[int]) -> Levels:
    top = 2**bits - 1 if bits else 1
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not np.isfinite(lowest + highest):
        raise ValueError('it has levels that are nan or infinite')
    if lowest < -top * OVERSHOOT or highest > top * (1 + OVERSHOOT):
        expected = f'0 to {top} by --bit-depth {bits}' if bits else '0 to 1, or --bit-depth N for 0 to 2^N - 1'
        raise ValueError(f'its floating-point levels are {lowest:g} to {highest:g}, expected {expected}')
    return Levels(pixels, None, top, 'L')


def _grey_levels(image: Image.Image, bits: Optional[int]) -> Levels:
    pixels = np.asarray(image)
    depth = 32 if image.mode == 'I' and image.format not in ('PNG', 'PPM') else 16
    is_signed = is_inverted = False
    if image.format == 'TIFF':
        tags = image.tag_v2
        depth, is_signed = tags.get(BITS_PER_SAMPLE, (1,))[0], tags.get(SAMPLE_FORMAT, (1,))[0] == 2
        is_inverted = tags.get(PHOTOMETRIC) == 0
        if depth == 32 and not is_signed:
            pixels = pixels.view(np.uint32)
    if pixels.min() < 0:
        raise ValueError(f'its levels are {pixels.min()} to {pixels.max()}, expected none below 0: add an offset')
    top = 2 ** (bits or depth - is_signed) - 1
    alpha = None
    if 'transparency' in image.info:
        alpha = np.where(pixels == image.info['transparency'], 0, 255).astype(np.uint8)
    return Levels(top - pixels.clip(0, top) if is_inverted else pixels, alpha, top, 'L')


def _colours(image: Image.Image, file: BinaryIO, bits: Optional[int]) -> Optional[np.ndarray]:
    """(H, W, C) of colours of 16 bits, of which Pillow gives the upper 8. None if these will do."""
    raw_mode = _raw_mode(image.tile[0])
    if raw_mode.startswith('RGBa'):  # colours multiplied by alpha, which Pillow divides in 8 bits
        if bits not in (None, 16):
            raise ValueError(f'--bit-depth {bits} does not work for colours multiplied by alpha: save it as PNG')
        return None
    if image.format == 'TIFF' and image.tag_v2.get(PLANAR) == 2:
        raise ValueError(SEPARATE)
    upper = np.asarray(image)
    file.seek(0)
    with Image.open(file) as again:
        # as bytes, or else with the byte that Pillow keeps in the other byte order
        raw_mode = 'RGBA' if raw_mode == 'LA;16B' else raw_mode[:-1] + OTHER_BYTE[raw_mode[-1]]
        again.tile = [
            tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
            for tile in again.tile
        ]
        lower = np.asarray(again)
    if raw_mode == 'RGBA':
        upper, lower = lower[..., ::2], lower[..., 1::2]
    return upper.astype(np.uint16) * 256 + lower
