"""Where the pixels that a model sees are in the original image: resizing, cropping and padding undone."""

from typing import Any, List, NamedTuple, Tuple

import torch
from PIL import Image
from torchvision import transforms

from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

__all__ = ['Box', 'Frame', 'prepare']

Box = List[float]
"""Left, top, right and bottom in pixels: x0, y0, x1, y1."""


class Frame(NamedTuple):
    """How an image was brought to the size that a model takes.

    Attributes:
        size: Width and height of the original.
        scale: Pixels of the original for one of the model, along x and y.
        start: Where the first pixel of the model is in the original, x and y; negative with padding.
        shown: Width and height of what the model sees.
    """

    size: Tuple[int, int]
    scale: Tuple[float, float]
    start: Tuple[float, float]
    shown: Tuple[int, int]

    @property
    def part(self) -> Box:
        """Box in the original of all that the model sees."""
        return self.box(0, 0, *self.shown)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Box in the original of one in the image that the model sees, clipped to the original."""
        return [
            min(max(start + scale * value, 0.0), float(side))
            for value, start, scale, side in zip(
                (x0, y0, x1, y1), 2 * self.start, 2 * self.scale, 2 * self.size, strict=True
            )
        ]


def prepare(image: Image.Image, transform: transforms.Compose) -> Tuple[torch.Tensor, Frame]:
    """Apply timm's transform for evaluation, and say which part of the image is where in the result.

    Args:
        image: Upright original.
        transform: What `timm.data.create_transform` returns for evaluation.

    Returns:
        What comes out, and the frame.

    Raises:
        ValueError: If a step moves pixels in a way that is not known.
    """
    scale, start = (1.0, 1.0), (0.0, 0.0)
    shown: Any = image
    for step in transform.transforms:
        before = shown.size if isinstance(shown, Image.Image) else None
        shown = step(shown)
        if not isinstance(shown, Image.Image):
            continue
        if isinstance(step, (transforms.Resize, ResizeKeepRatio)):
            scale = tuple(s * old / new for s, old, new in zip(scale, before, shown.size))
        elif isinstance(step, (transforms.CenterCrop, CenterCropOrPad)):
            first = (_first(old, new) for old, new in zip(before, shown.size))
            start = tuple(place + s * pixel for place, s, pixel in zip(start, scale, first))
        else:
            raise ValueError(f'{type(step).__name__}: it is not known where this preprocessing moves pixels.')
    height, width = shown.shape[-2:]
    return shown, Frame(image.size, scale, start, (width, height))


def _first(old: int, new: int) -> int:
    """Pixel at which torchvision's centre crop of a side begins, negative where it pads."""
    return -((new - old) // 2) if new > old else round((old - new) / 2)
