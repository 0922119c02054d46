"""An image as a model sees it, and a model while it is asked why."""

import os
from contextlib import contextmanager
from functools import partial
from typing import Iterator, NamedTuple, Optional, Union

import torch
import torch.nn as nn
from PIL import Image

from timm.data import create_transform

from ..data import BadImageError, Decoder
from ..data.decode import MODES
from ..weights.preprocessing import resolve_preprocessing
from .frame import Frame, prepare

__all__ = ['ImageSource', 'Seen', 'evaluating', 'see']

ImageSource = Union[str, 'os.PathLike[str]', Image.Image]


class Seen(NamedTuple):
    """An image as its user and as the model sees it.

    Attributes:
        file: Name, '' if it has none.
        image: Upright original in RGB.
        pixels: Normalised pixels (1, C, H, W), on the device and in the type of the model.
        frame: Where those are in the original.
    """

    file: str
    image: Image.Image
    pixels: torch.Tensor
    frame: Frame


def see(
    model: nn.Module,
    image: ImageSource,
    *,
    bit_depth: Optional[int] = None,
    background: Optional[str] = None,
    max_pixels: Optional[int] = None,
) -> Seen:
    """Read an image, and prepare it as the `pretrained_cfg` of a model says. See `explain` for arguments and errors."""
    config = resolve_preprocessing(model)
    decoder = Decoder(bit_depth, background, max_pixels, MODES[config['input_size'][0]])
    decoder = decoder.for_model(model.pretrained_cfg)
    file = '' if isinstance(image, Image.Image) else os.fspath(image)
    if file:
        upright, error = decoder.read(partial(open, file, 'rb'))
        if error:
            raise BadImageError(f'Cannot read image {file!r}: {error}')
    else:
        upright = decoder.convert(image)
    pixels, frame = prepare(upright, create_transform(**config))
    parameter = next(model.parameters())
    return Seen(file, upright.convert('RGB'), pixels[None].to(parameter.device, parameter.dtype), frame)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of the model is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
