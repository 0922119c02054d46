"""Image files: find them, and read them without labels."""

import glob
import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, List, Sequence, Tuple

from PIL import Image
from torch.utils.data import Dataset

from ..runtime import UserError
from .decode import Decoder

__all__ = ['BadImageError', 'ImageFiles', 'describe_unreadable', 'drop_duplicates', 'find_images']

EXTENSIONS = ('.avif', '.bmp', '.gif', '.heic', '.heif', '.jfif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif')
EXTENSIONS += ('.tiff', '.webp')
UNREADABLE = 0.01  # share of images that may be left out without a warning


class BadImageError(UserError):
    """An image cannot be read."""


def drop_duplicates(paths: Iterable[str], done: Iterable[str] = ()) -> List[str]:
    """Keep the first path of each file that is not done yet. `./a.jpg` and `a.jpg` are the same file."""
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
        # keeps names that are not UTF-8 as the file system has them
        lines = path.read_text(encoding='utf-8-sig', errors='surrogateescape').split('\n')
        return [line.rstrip('\r') for line in lines if line.strip()]
    # leaves out hidden files, as a shell does: some systems keep files there that only look like images
    pattern = os.path.join(glob.escape(argument), '**', '*') if path.is_dir() else argument
    found = (match for match in glob.iglob(pattern, recursive=True) if match.lower().endswith(EXTENSIONS))
    return sorted(filter(os.path.isfile, found))


def find_images(arguments: Sequence[str]) -> List[str]:
    """Find the image files that arguments stand for, each once, in the order of the arguments.

    Args:
        arguments: Images, glob patterns (`**` for any folders), folders, which are searched to any depth, or text files
            (.txt) with one path a line. Paths in a text file need not exist. Patterns and folders yield files with an
            image extension only, sorted.

    Raises:
        FileNotFoundError: If an argument yields nothing.
    """
    paths: List[str] = []
    for argument in arguments:
        found = _find(argument)
        if not found:
            what = 'is not an image, a folder, a list or a pattern that matches images'
            if os.path.exists(argument):
                what = 'has no images' if os.path.isdir(argument) else 'has no lines'
            raise FileNotFoundError(f'Nothing found: {argument!r} {what}.')
        paths += found
    return drop_duplicates(paths)


def describe_unreadable(count: int, total: int) -> str:
    """Say how many images were left out, as a warning if that is more than 1 % of all."""
    text = f'{count} images could not be read and were left out'
    return f'Warning: {text}, {100 * count / total:.1f} % of {total}' if count > UNREADABLE * total else text


class ImageFiles(Dataset):
    """Images without labels, each with the reason why it cannot be read, or ''. Unreadable images are black.

    Args:
        paths: Image files.
        transform: Turns a PIL image into an array.
        decoder: Reads the files.
    """

    def __init__(self, paths: Sequence[str], transform: Callable[[Image.Image], Any], decoder: Decoder):
        self.paths, self.transform, self.decoder = paths, transform, decoder

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tuple[Any, str]:
        return self.decoder.read(partial(open, self.paths[index], 'rb'), self.transform)
