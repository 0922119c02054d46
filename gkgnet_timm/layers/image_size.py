"""Image sizes that the stages can divide, and the check of a batch of images against them."""

from typing import Tuple, Union

import torch
import torch.nn.functional as F

from timm.layers import to_2tuple

__all__ = ['STRIDE', 'prepare_images', 'resolve_img_size']

STRIDE = 32  # of the last stage of a pyramid
MOST_PIXELS = 8192  # of a side


def _nearest_sizes(size: int, stride: int) -> str:
    low, high = size // stride * stride, (size // stride + 1) * stride
    return f'{low} or {high}' if low > 0 else f'{high}'


def resolve_img_size(img_size: Union[int, Tuple[int, int]], pad: bool, stride: int = STRIDE) -> Tuple[int, int]:
    """The (height, width) that the stages see for an image size, multiples of a stride."""
    size = tuple(to_2tuple(img_size))
    if len(size) != 2 or not all(type(s) is int and s > 0 for s in size):
        raise ValueError(f'img_size must be a positive integer or (height, width), got {img_size!r}.')
    if max(size) > MOST_PIXELS:
        raise ValueError(f'img_size must be at most {MOST_PIXELS}, got {img_size!r:.80}.')
    if not pad:
        for side in size:
            if side % stride:
                raise ValueError(
                    f'img_size {img_size!r}: {side} is not a multiple of {stride}, the nearest valid sizes are '
                    f'{_nearest_sizes(side, stride)}. Or pass dynamic_img_pad=True to pad images.'
                )
    return (size[0] + stride - 1) // stride * stride, (size[1] + stride - 1) // stride * stride


def prepare_images(
    x: torch.Tensor,
    in_chans: int,
    img_size: Tuple[int, int],
    dynamic_img_size: bool,
    dynamic_img_pad: bool,
    stride: int = STRIDE,
) -> torch.Tensor:
    """Check a batch of images, and pad it at the bottom and right if asked to.

    Raises:
        ValueError: For a rank, channel count or size that the model does not take.
    """
    if x.ndim != 4:
        raise ValueError(f'Expected images (batch, channels, height, width), got a tensor of {x.ndim} dimensions.')
    if x.shape[1] != in_chans:
        raise ValueError(f'Expected images with {in_chans} channels, got {x.shape[1]}.')
    height, width = x.shape[2], x.shape[3]
    if height < 1 or width < 1:
        raise ValueError(f'Image size {height} x {width} is empty.')
    pad_h, pad_w = -height % stride, -width % stride
    if dynamic_img_pad:
        x = F.pad(x, (0, pad_w, 0, pad_h))
    elif dynamic_img_size and (pad_h > 0 or pad_w > 0):
        heights, widths = _nearest_sizes(height, stride), _nearest_sizes(width, stride)
        raise ValueError(
            f'Image size {height} x {width} is not a multiple of {stride}: the nearest valid heights are {heights}, '
            f'widths {widths}. Resize the images or create the model with dynamic_img_pad=True.'
        )
    if not dynamic_img_size and (x.shape[2] != img_size[0] or x.shape[3] != img_size[1]):
        raise ValueError(
            f'Image size {height} x {width} is not the {img_size[0]} x {img_size[1]} of this model. Call '
            'set_input_size() or create the model with dynamic_img_size=True.'
        )
    return x
