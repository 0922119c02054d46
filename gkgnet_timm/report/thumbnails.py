"""Small pictures inside a page, of a number of bytes that has a bound."""

import base64
import io
import os
from typing import Callable, Optional, Sequence

from PIL import Image

from ..data.decode import Decoder
from ..runtime import locate

__all__ = ['Album', 'ReadImage', 'images_of_files']

ReadImage = Callable[[int], Optional[Image.Image]]  # upright image of a row, None if it cannot be had

MOST_BYTES = 12_000_000  # of all thumbnails in a page
SIZES = ((320, 80), (256, 78), (208, 75), (176, 70), (144, 65), (112, 60), (80, 50))  # longest side, quality of JPEG


def images_of_files(files: Sequence[str], folders: Sequence[Optional[str]], decoder: Decoder) -> ReadImage:
    """Read images by their names, which start from one of some folders, or else from the current one.

    Args:
        files: N names.
        folders: Folders in the order to look in. None is left out.
        decoder: Reads the files.
    """
    folders = [folder for folder in folders if folder] or ['']

    def read(row: int) -> Optional[Image.Image]:
        path = next(filter(None, (locate(files[row], folder) for folder in folders)), None)
        if path is None or not os.path.isfile(path):
            return None
        image, problem = decoder.read(lambda: open(path, 'rb'))
        return None if problem else image

    return read


class Album:
    """Thumbnails of images as addresses with the picture in them.

    Args:
        images: Number of thumbnails to come: the more, the smaller they are.
    """

    def __init__(self, images: int):
        self.limit: float = MOST_BYTES / max(1, images)
        self.left: int = MOST_BYTES

    def add(self, image: Image.Image) -> Optional[str]:
        """Return the address of a thumbnail, None if the page has no room for it."""
        image = image.convert('RGB')
        for side, quality in SIZES:
            small = image.copy()
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            small.save(buffer, 'JPEG', quality=quality, optimize=True)
            address = f'data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}'
            image = small  # a smaller one is made of this one, as its pixels are no fewer than needed
            if len(address) <= self.limit:
                break
        if len(address) > self.left:
            return None
        self.left -= len(address)
        return address
