"""An image as a model sees it, and a model while it is asked why."""

import os
from contextlib import contextmanager
from functools import partial
from typing import Iterator, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn as nn
from PIL import Image

from timm.data import create_transform
from timm.data.loader import PrefetchLoader

from ..data import BadImageError, Decoder
from ..data.address import named
from ..data.decode import MODES
from ..data.remote import open_image
from ..inference.predictor import collate
from ..runtime import one_line
from ..weights.preprocessing import resolve_preprocessing
from .frame import Frame, prepare

__all__ = ['ImageSource', 'Seen', 'evaluating', 'see']

ImageSource = Union[str, os.PathLike[str], Image.Image]
"""Path or URL of an image, or an image of Pillow."""


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
    """Read an image, and prepare it as `predict_images` does, to the last bit.

    Args:
        model: Model, its `pretrained_cfg` says how.
        image: File, or an image of Pillow.
        bit_depth: See `Decoder`, as background and max_pixels (default: as in the training of the model).

    Raises:
        BadImageError: If the image cannot be read.
        ValueError: If the model takes neither colour nor grey, or an option is out of range.
    """
    config = resolve_preprocessing(model)
    channels = config['input_size'][0]
    decoder = Decoder(bit_depth, background, max_pixels, MODES[channels]).for_model(model.pretrained_cfg)
    transform = create_transform(**config, use_prefetcher=True)

    def both(upright: Image.Image) -> Tuple[Image.Image, torch.Tensor, Frame]:
        return upright, *prepare(upright, transform)

    file, error = '', ''
    if isinstance(image, Image.Image):
        try:
            upright, pixels, frame = both(decoder.convert(image))
        except Exception as damage:  # as in `Decoder.read`
            error = one_line(damage)
    else:
        file = named(os.fspath(image))
        (upright, pixels, frame), error = decoder.read(partial(open_image, file), both)
    if error:
        raise BadImageError(f'Cannot read image {file!r}: {error}' if file else f'Cannot read the image: {error}')
    parameter = next(model.parameters())
    loader = PrefetchLoader([collate([(pixels, '')])], config['mean'], config['std'], channels, parameter.device)
    ((normalised, _),) = loader
    return Seen(file, upright.convert('RGB'), normalised.to(parameter.dtype), frame)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every part of the model is restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
