"""The decoder of image files, one for training, evaluation and prediction: a file has the same pixels in all."""

import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from ..runtime import FileWarning, check_ranges, one_line
from .levels import Levels, read_levels

__all__ = ['MODES', 'Decoder', 'is_heif', 'reading_notes']

MODES = {1: 'L', 3: 'RGB'}  # by the channels of a model
RANGES = dict(bit_depth=(8, 32), max_pixels=(1, inf))
HEIF = (b'hei', b'hev', b'mif1', b'msf1')  # brands of a file begin with
NEARLY_BLACK = 1 / 8  # share of its range that an image uses
ORIENTATION = 0x0112  # in EXIF data
Transform = Optional[Callable[[Image.Image], Any]]


def reading_notes(bit_depth: Optional[int], background: Optional[str]) -> List[str]:
    """How a training read its images, as `notes` of a `pretrained_cfg`: timm takes no entries of other names there."""
    return [f'bit_depth={bit_depth or "full"}', f'background={background or "white"}']


@dataclass
class Decoder:
    """Decodes image files to upright RGB or grey images of 8 bits.

    Args:
        bit_depth: Bits of the levels in files of more than 8 bits: 2^N - 1 is white. None for all bits that an integer
            file has, and for floats from 0 to 1. A range is never guessed from the pixels.
        background: Colour under transparent pixels, such as '#808080' (default: white).
        max_pixels: Size of the largest image that is read (default: the limit of Pillow).
        mode: 'RGB' or 'L'.
        trained: How the training of the model read images: holds for what is not given.
        warnings_left: Images to name that use less than 1/8 of their range.

    Raises:
        ValueError: If a value is out of range or not a colour.
    """

    bit_depth: Optional[int] = None
    background: Optional[str] = None
    max_pixels: Optional[int] = None
    mode: str = 'RGB'
    trained: Dict[str, str] = field(default_factory=dict)
    warnings_left: float = 5

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        self.bits, background = self.bit_depth, self.background or self.trained.get('background', 'white')
        if not self.bits and self.trained.get('bit_depth', 'full') != 'full':
            self.bits = int(self.trained['bit_depth'])
        try:
            self.color: Tuple[int, ...] = ImageColor.getrgb(background)[:3]
        except ValueError:
            expected = 'expected a colour, such as white, black or #808080'
            raise ValueError(f'--background is {background!r}, {expected}.') from None

    def for_model(self, pretrained_cfg: Dict[str, Any]) -> 'Decoder':
        """Return the decoder for a model: what is not given is as in its training.

        Raises:
            ValueError: If the notes of the model name what no training can have.
        """
        notes = pretrained_cfg.get('notes')
        pairs = [str(note).partition('=') for note in (notes if isinstance(notes, (list, tuple)) else ())]
        trained = {name: value for name, _, value in pairs if name in ('bit_depth', 'background')}
        try:
            if trained.get('bit_depth', 'full') != 'full':
                Decoder(int(trained['bit_depth']))
            return replace(self, trained=trained)
        except ValueError as error:
            raise ValueError(f'The model has notes {notes!r} of how to read images: {error}') from error

    def describe(self) -> str:
        """Say how pixels are read."""
        notes = reading_notes(self.bits, self.background or self.trained.get('background'))
        return ', '.join(notes).replace('=', ' ')

    def differences(self) -> List[str]:
        """Say what is given other than in the training of the model, if that is known."""
        given = dict(bit_depth=self.bit_depth, background=self.background)
        return [
            f'{name} is {given[name]}, the model was trained with {value}'
            for name, value in self.trained.items()
            if given[name] is not None and str(given[name]) != value
        ]

    def read(self, open_file: Callable[[], BinaryIO], transform: Transform = None) -> Tuple[Any, str]:
        """Open, decode and transform an image. Whatever that raises makes it a bad one.

        Except for a lack of memory, unless the transform of an extreme size is what asks for it.

        Returns:
            What comes out and '', or else what comes out for a black image and why this one cannot be read.
        """
        transform = transform or (lambda image: image)
        image = None
        try:
            with open_file() as file, self._pixel_limit():
                image = self._decode(file)
                return transform(image), ''
        except MemoryError as error:
            if image is None:
                raise
            reason = one_line(error)
        except Image.DecompressionBombError as error:
            count = re.search(r'\d+', str(error))[0]
            limit = self.max_pixels or 2 * Image.MAX_IMAGE_PIXELS
            reason = f'it has {count} pixels, more than {limit}: to read it, give --max-pixels (in Python: max_pixels)'
        except Exception as error:  # damaged files make decoders raise anything, extreme sizes make transforms raise
            reason = one_line(error)
        return transform(Image.new(self.mode, (32, 32))), reason

    @contextmanager
    def _pixel_limit(self) -> Iterator[None]:
        """Put our limit in the place of Pillow's, which checks it in decoders and when it crops an image, too."""
        before = Image.MAX_IMAGE_PIXELS
        if self.max_pixels:
            Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before

    def _decode(self, file: BinaryIO) -> Image.Image:
        opened = _open(file)
        pixels = opened.width * opened.height
        if self.max_pixels and pixels > self.max_pixels:
            raise Image.DecompressionBombError(pixels)
        if self.max_pixels:
            Image.MAX_IMAGE_PIXELS = self.max_pixels
        return self.convert(opened, file)

    def convert(self, opened: Image.Image, file: Optional[BinaryIO] = None) -> Image.Image:
        """Bring an image, as Pillow opens it, to the mode of this decoder.

        Args:
            opened: The image.
            file: Its file, None if the image is decoded already. Colours of 16 bits have then lost their lower 8.
        """
        _scale_transparency(opened)
        levels = read_levels(opened, file, self.bits)
        image = opened if levels is None else self._to_8_bits(levels, file)
        if image.has_transparency_data:
            layer = image.convert('RGBA')
            image = Image.new('RGB', layer.size, self.color)
            image.paste(layer, mask=layer)
        if image.mode == 'LAB':  # which Pillow brings to RGB only
            image = image.convert('RGB')
        image = image.convert(self.mode)
        image.info = {key: value for key, value in opened.info.items() if key != 'transparency'}  # with the EXIF data
        try:
            return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF data raise anything, and the image is good without them
            return image

    def _to_8_bits(self, levels: Levels, file: Optional[BinaryIO]) -> Image.Image:
        pixels, alpha, top, mode = levels
        highest = float(pixels.max())
        if not NEARLY_BLACK * top <= highest <= top * (1 if self.bits else inf) and self.warnings_left > 0:
            self.warnings_left -= 1
            name = repr(file.name) if hasattr(file, 'name') else 'An image'
            last = '' if self.warnings_left else ' Further ones are not named, check-data names all.'
            problem = f'{name}: its highest level is {highest:g} of {top:g}'
            if highest > top:
                problem += f', so that it is white in part. --bit-depth {self.bits} is too small for it.'
            elif self.bits or top == 1:
                problem += ', so that it is nearly black.'
            else:
                bits = max(8, int(highest).bit_length())
                problem += f', so that it is nearly black. If the data set has fewer bits, such as {bits}: --bit-depth.'
            warnings.warn(problem + last, FileWarning, stacklevel=2)
        scaled = (pixels * np.float32(255 / top) + np.float32(0.5)).clip(0, 255).astype(np.uint8)
        if alpha is not None:
            scaled, mode = np.dstack([scaled, alpha]), f'{mode}A'
        return Image.frombytes(mode, scaled.shape[1::-1], scaled.tobytes())


def is_heif(file: BinaryIO) -> bool:
    """Whether the head of a file is that of HEIC or another kind of HEIF, which Pillow alone does not know."""
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    return head[4:8] == b'ftyp' and head[8:].startswith(HEIF)


def _open(file: BinaryIO) -> Image.Image:
    try:
        opened = Image.open(file)
        if opened.format in ('EPS', 'IPTC'):  # whatever the file is called; IPTC may have EPS in it
            raise ValueError(f'it is in {opened.format} format, for which Pillow starts Ghostscript: convert it to PNG')
        return opened
    except UnidentifiedImageError:
        if not is_heif(file):
            raise ValueError('it is not an image of a known format') from None
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError("it is in HEIC format, which needs a package: pip install 'gkgnet-timm[heif]'") from None
    register_heif_opener()
    return Image.open(file)


def _scale_transparency(opened: Image.Image) -> None:
    """Bring the transparent level of a grey PNG of 2 or 4 bits to 8 bits, as Pillow brings its pixels."""
    if opened.format == 'PNG' and opened.mode == 'L' and isinstance(opened.info.get('transparency'), int):
        factor = {'L;2': 85, 'L;4': 17}.get(opened.tile[0].args if opened.tile else None, 1)
        opened.info['transparency'] *= factor
