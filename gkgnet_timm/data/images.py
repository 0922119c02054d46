"""Images without labels: the files that arguments of a command mean, and a data set of them."""

import glob
import os
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable, List, Sequence, Tuple

import numpy as np
from PIL import Image, ImageOps
from torch.utils.data import Dataset

__all__ = ['BadImageError', 'ImageFiles', 'drop_duplicates', 'find_images']

EXTENSIONS = ('.avif', '.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
# what Pillow raises for files that it can't decode
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class BadImageError(RuntimeError):
    """An image that can't be read."""


def _decode(file: BinaryIO, mode: str) -> Image.Image:
    """Image of a file, upright as its EXIF data say, 16-bit levels scaled where Pillow would clip them."""
    opened = image = Image.open(file)
    if opened.mode == 'I' or opened.mode.startswith('I;16'):
        image = Image.fromarray((np.asarray(opened) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert(mode)
    image.info = opened.info  # with the EXIF data
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data raise anything, and are no reason to do without the image
        return image


def drop_duplicates(paths: Iterable[str], done: Iterable[str] = ()) -> List[str]:
    """Paths in their order, each file once, without those that are done. `./a.jpg` and `a.jpg` are the same file."""
    seen = set(map(os.path.abspath, done))
    kept = []
    for path in paths:
        key = os.path.abspath(path)
        if key not in seen:
            seen.add(key)
            kept.append(path)
    return kept


def _find(argument: str) -> List[str]:
    path = Path(argument)
    if path.is_file():
        if path.suffix.lower() != '.txt':
            return [argument]
        # names that are not UTF-8 are kept as the file system has them
        lines = path.read_text(encoding='utf-8-sig', errors='surrogateescape').split('\n')
        return [line.rstrip('\r') for line in lines if line.strip()]
    # as in a shell, hidden files are left out: among them are copies of other systems that are no images
    pattern = os.path.join(glob.escape(argument), '**', '*') if path.is_dir() else argument
    found = (match for match in glob.iglob(pattern, recursive=True) if match.lower().endswith(EXTENSIONS))
    return sorted(filter(os.path.isfile, found))


def find_images(arguments: Sequence[str]) -> List[str]:
    """Paths of images, each once, in the order of the arguments.

    Args:
        arguments: Images, glob patterns (`**` for any folders), folders with all in them, or text files (.txt) with a
            path on each line. The paths of a text file need not exist. Patterns and folders are sorted and give files
            with the extension of an image only.

    Raises:
        FileNotFoundError: If there is nothing for an argument.
    """
    paths: List[str] = []
    for argument in arguments:
        found = _find(argument)
        if not found:
            what = 'is no image, folder, list or pattern of existing ones'
            if os.path.exists(argument):
                what = 'has no images' if os.path.isdir(argument) else 'has no lines'
            raise FileNotFoundError(f'Nothing found: {argument!r} {what}.')
        paths += found
    return drop_duplicates(paths)


class ImageFiles(Dataset):
    """Upright images, each with the reason why it can not be read, '' for all others. Unreadable ones are black.

    Args:
        paths: Of the files.
        transform: From a PIL image to an array.
    """

    def __init__(self, paths: Sequence[str], transform: Callable[[Image.Image], Any]):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tuple[Any, str]:
        try:
            with open(self.paths[index], 'rb') as file:
                return self.transform(_decode(file, 'RGB')), ''
        # damaged files make decoders raise anything, extreme sizes the transform, and one must not end a long run
        except Exception as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
        return self.transform(Image.new('RGB', (32, 32))), reason
