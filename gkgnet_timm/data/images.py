"""Image files: find them, and read them without labels."""

import codecs
import glob
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Sequence, Tuple

from PIL import Image
from torch.utils.data import Dataset

from ..runtime import UserError, is_url, same_file
from .address import Address, ambiguous, named
from .coco_json import list_images
from .decode import Decoder
from .remote import find_remote, open_image

__all__ = ['BadImageError', 'ImageFiles', 'count_unreadable', 'describe_unreadable', 'drop_duplicates', 'find_images']

EXTENSIONS = ('.avif', '.bmp', '.gif', '.heic', '.heif', '.jfif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif')
EXTENSIONS += ('.tiff', '.webp')
UNREADABLE = 0.01  # share of images that may be left out without a warning


class BadImageError(UserError):
    """An image cannot be read: the message names it and says why."""


def drop_duplicates(paths: Iterable[str], done: Iterable[str] = ()) -> List[str]:
    """Keep the first path of each file that is not done yet."""
    seen = set(map(same_file, done))
    kept = []
    for path in paths:
        key = same_file(path)
        if key not in seen:
            seen.add(key)
            kept.append(path)
    return kept


def _read_list(path: Path) -> List[str]:
    """The lines of a text file, in UTF-16 if it begins with the mark of that."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode('utf-16', errors='replace')
    else:  # keeps names that are not UTF-8 as the file system has them
        text = content.decode('utf-8-sig', errors='surrogateescape')
    if '\0' in text:
        raise ValueError(f'List {str(path)!r} is not text with a path on each line: save it as UTF-8.')
    return [line.rstrip('\r') for line in text.split('\n') if line.strip()]


def _folders(root: str) -> Iterator[str]:
    """A folder and those in it to any depth, each once, however many links lead to it. Hidden ones are left out."""
    seen, pending = set(), [root]
    while pending:
        folder = pending.pop(0)
        try:
            status = os.stat(folder or '.')
            entries = sorted(os.scandir(folder or '.'), key=lambda entry: entry.name)
        except OSError:  # not readable: nothing is found there
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder
        inner = [entry for entry in entries if not entry.name.startswith('.') and entry.is_dir()]
        # links come last, so that files keep the name that is theirs
        pending[:0] = [os.path.join(folder, entry.name) for entry in inner if not entry.is_symlink()]
        pending += [os.path.join(folder, entry.name) for entry in inner if entry.is_symlink()]


def _matches(pattern: str) -> Iterator[str]:
    """Paths that a pattern matches, as `glob`, which follows links that lead back without end."""
    parts = re.split(r'(?:^|(?<=/))\*\*(?:/|$)', pattern.replace(os.sep, '/'), maxsplit=1)
    if len(parts) == 1:
        yield from glob.iglob(pattern)
        return
    before, after = parts
    for root in glob.iglob(before) if before else ('',):
        for folder in _folders(root):
            yield from _matches(os.path.join(glob.escape(folder), after or '*'))


def _find(argument: str) -> List[str]:
    path = Path(argument)
    if path.is_file():
        if path.suffix.lower() == '.json':
            return list_images(path)
        if path.suffix.lower() != '.txt':
            return [argument]
        return _read_list(path)
    # leaves out hidden files, as a shell does: some systems keep files there that only look like images
    pattern = os.path.join(glob.escape(argument), '**', '*') if path.is_dir() else argument
    found = {match for match in _matches(pattern) if match.lower().endswith(EXTENSIONS)}
    return sorted(filter(os.path.isfile, found))


def find_images(arguments: Sequence[str]) -> List[str]:
    """Find the image files that arguments stand for, each once, in the order of the arguments.

    Args:
        arguments: Images, glob patterns (`**` for any folders), folders, which are searched to any depth, or text files
            (.txt) with one path a line, or COCO files (.json), with annotations or without. Paths in such files start
            from the current folder and need not exist. Patterns and folders yield files with an image extension only,
            sorted. Images, patterns and folders may be URLs, see `Address`: these are named without credentials.

    Raises:
        FileNotFoundError: If an argument yields nothing.
        OSError: If a store cannot be asked.
        ValueError: If a .json is not in COCO format, or URLs are of a kind or form that cannot be read, or have the
            same name.
    """
    paths: List[str] = []
    for argument in map(named, arguments):
        found = find_remote(argument, EXTENSIONS) if isinstance(argument, Address) else _find(argument)
        if not found:
            what = 'is not an image, a folder, a list or a pattern that matches images'
            if os.path.exists(argument):
                what = 'has no images' if os.path.isdir(argument) else 'has no lines'
            raise FileNotFoundError(f'Nothing found: {argument!r} {what}.')
        paths += map(named, found)
    if path := ambiguous(paths):
        raise ValueError(
            f'{path!r} is the name of several images, as what differs is left out: it may be a credential. '
            'Download them first, or in Python: predict_images(..., find=False).'
        )
    return drop_duplicates(paths)


def describe_unreadable(count: int, total: int) -> str:
    """Say how many images were left out, as a warning if that is more than 1 % of all."""
    text = f'{count} images could not be read and were left out'
    return f'Warning: {text}, {100 * count / total:.1f} % of {total}' if count > UNREADABLE * total else text


def count_unreadable(count: int, total: int, files: Sequence[str]) -> str:
    """Say how many images cannot be read, and what that may mean if some of the files are in a store."""
    text = f'{count} of {total} images cannot be read.'
    if count == total and any(map(is_url, files)):
        text += ' As that is all of them: is the store there, and are you allowed to read it?'
    return text


class ImageFiles(Dataset[Tuple[Any, str]]):
    """Images without labels, each with the reason why it cannot be read, or ''. Unreadable images are black.

    Args:
        paths: Image files.
        transform: Turns a PIL image into an array.
        decoder: Reads the files.
    """

    def __init__(self, paths: Sequence[str], transform: Callable[[Image.Image], Any], decoder: Decoder):
        self.paths = paths
        self.transform = transform
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tuple[Any, str]:
        return self.decoder.read(partial(open_image, self.paths[index]), self.transform)
