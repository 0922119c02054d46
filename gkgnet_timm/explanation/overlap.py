"""How often each place of an image was chosen."""

from typing import Any, Sequence, Tuple

import numpy as np
from PIL import Image

__all__ = ['dim', 'overlap']


def overlap(patches: Sequence[Any], size: Tuple[int, int], shown: Tuple[int, int]) -> np.ndarray:
    """Count how many (stage, group) pairs chose each place.

    Args:
        patches: `Chosen` ones of one label.
        size: Width and height of the original, in whose pixels their boxes are.
        shown: Width and height of the result.

    Returns:
        Counts (height, width).
    """
    pairs = {}
    for chosen in patches:
        x0, y0, x1, y1 = (value * new / old for value, new, old in zip(chosen.box, 2 * shown, 2 * size, strict=True))
        if x0 < x1 and y0 < y1:  # else it is in the padding
            of_pair = pairs.setdefault((chosen.stage, chosen.group), np.zeros(shown[::-1], dtype=bool))
            left, top = int(x0 + 0.5), int(y0 + 0.5)
            of_pair[top : max(top + 1, int(y1 + 0.5)), left : max(left + 1, int(x1 + 0.5))] = True
    return sum(pairs.values(), np.zeros(shown[::-1], dtype=np.int64))


def dim(image: Image.Image) -> Image.Image:
    """A pale grey form of an image, on which colours stand out."""
    grey = image.convert('L').convert('RGB')
    return Image.blend(grey, Image.new('RGB', image.size, 'white'), 0.65)
