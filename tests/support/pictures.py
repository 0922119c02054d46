"""What can be said about a plot without looking at it."""

import numpy as np
from PIL import Image

BLUE = (0, 114, 178)  # of bars and first curves


def read_picture(path):
    """Pixels (H, W, 3) of a picture that is neither tiny nor blank."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert('RGB'))
    assert all(100 < length < 4000 for length in pixels.shape[:2]), pixels.shape
    assert (pixels != pixels[0, 0]).any(axis=2).mean() > 0.01 and len(np.unique(pixels)) > 10, path
    return pixels


def share_of(pixels, colour):
    """Share of the pixels that have a colour."""
    return (pixels == colour).all(axis=2).mean()
