"""Run a model over images: the loop that evaluation and prediction share, and the scores of image files."""

import os
from contextlib import AbstractContextManager
from functools import partial
from itertools import tee
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

from timm.data import create_transform
from timm.data.loader import PrefetchLoader, fast_collate

from ..data.address import named
from ..data.decode import MODES, Decoder
from ..data.images import ImageFiles, find_images
from ..data.shards import Sample, SampleImages
from ..runtime import default_workers
from ..weights.preprocessing import resolve_preprocessing
from .device import autocast_context, check_device

__all__ = ['Prediction', 'class_names_of', 'collate', 'compute_logits', 'image_outputs', 'predict_images']
__all__ += ['probabilities', 'sample_outputs']

Prediction = Tuple[str, np.ndarray, str]
"""File, scores (L,), and why the file cannot be read, or ''."""

Forward = Callable[[torch.Tensor], torch.Tensor]  # images (B, C, H, W) -> (B, D)


def class_names_of(model: nn.Module) -> List[str]:
    """Return the class names of a model's weights, or numbered names if they have none."""
    names = list(model.pretrained_cfg.get('label_names') or ())
    return names if len(names) == model.num_classes else [f'class {i}' for i in range(model.num_classes)]


@torch.inference_mode()
def compute_logits(
    model: nn.Module,
    loader: Any,
    autocast: Callable[[], AbstractContextManager],
    *,
    channels_last: bool = False,
    flip: bool = False,
    forward: Optional[Forward] = None,
) -> Iterator[Tuple[torch.Tensor, Any]]:
    """Yield the logits (B, L), in float32, of each batch of a loader, and what the loader gives along with the images.

    Args:
        model: Model on the device of the batches.
        loader: Yields pairs of normalised images (B, C, H, W) and anything else.
        autocast: Creates the context of the forward pass, see `autocast_context`.
        channels_last: Whether images are in this memory format.
        flip: Average the logits of each image and its mirror image.
        forward: Another function of images than the model.
    """
    model.eval()
    forward = forward or model
    for images, other in loader:
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast():
            logits = forward(images).float()
            if flip:
                logits = (logits + forward(images.flip(-1)).float()) / 2
        yield logits, other


class _Errors(list):
    """Why the images of a batch cannot be read. timm's loader moves whatever comes with images to the device."""

    def to(self, **_: Any) -> '_Errors':
        return self


def collate(batch: List[Tuple[np.ndarray, str]]) -> Tuple[torch.Tensor, _Errors]:
    """Images (B, C, H, W) in uint8 of transformed ones, and why each cannot be read."""
    images, _ = fast_collate([(image, 0) for image, _ in batch])
    return images, _Errors(error for _, error in batch)


def predict_images(
    model: nn.Module,
    images: Union[str, os.PathLike[str], Sequence[Union[str, os.PathLike[str]]]],
    *,
    find: bool = True,
    batch_size: int = 32,
    workers: Optional[int] = None,
    device: Union[None, str, torch.device] = None,
    amp: bool = False,
    amp_dtype: str = 'bfloat16',
    channels_last: bool = False,
    bit_depth: Optional[int] = None,
    background: Optional[str] = None,
    max_pixels: Optional[int] = None,
) -> Iterator[Prediction]:
    """Score images with a multi-label model, preprocessed as its `pretrained_cfg` says.

    Args:
        model: Model with trained weights. It is moved to the device.
        images: One or several of: images, glob patterns, folders, or .txt files with a path on each line.
        find: Look for what `images` stand for. Otherwise they are image files, which need not exist.
        batch_size: Images in a batch.
        workers: Processes that load images (default: up to 4, none on Windows, macOS and from Python 3.14, where a
            script that starts some has to be in `if __name__ == '__main__':`).
        device: Where the model runs (default: cuda if available).
        amp: Use automatic mixed precision.
        amp_dtype: 'bfloat16' or 'float16'.
        channels_last: Use this memory format.
        bit_depth: See `Decoder`, as background and max_pixels (default: as in the training of the model).

    Returns:
        An iterator over (file, scores, error). The scores (L,) are probabilities in float32, in the order of
        `class_names_of(model)`, nan if the model's are not finite. The error is '' for readable images; otherwise it
        says why the image cannot be read, and the scores mean nothing.

    Raises:
        FileNotFoundError: If there is nothing at one of the paths.
        ValueError: If there is no such device, an option is out of range, or the model takes neither colour nor grey.
    """
    options = dict(batch_size=batch_size, workers=workers, device=device, amp=amp, amp_dtype=amp_dtype)
    options.update(channels_last=channels_last, bit_depth=bit_depth, background=background, max_pixels=max_pixels)
    outputs = image_outputs(model, images, find=find, **options)
    return ((file, probabilities(logits), error) for file, logits, error in outputs)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Scores in float32 of the logits (L,) of an image, nan where those are not finite."""
    # the sigmoid of inf would be a valid score
    logits = torch.from_numpy(logits)
    return logits.sigmoid().masked_fill(~logits.isfinite(), torch.nan).numpy()


def image_outputs(
    model: nn.Module,
    images: Union[str, os.PathLike[str], Sequence[Union[str, os.PathLike[str]]]],
    *,
    forward: Optional[Forward] = None,
    find: bool = True,
    batch_size: int = 32,
    workers: Optional[int] = None,
    device: Union[None, str, torch.device] = None,
    amp: bool = False,
    amp_dtype: str = 'bfloat16',
    channels_last: bool = False,
    bit_depth: Optional[int] = None,
    background: Optional[str] = None,
    max_pixels: Optional[int] = None,
) -> Iterator[Tuple[str, np.ndarray, str]]:
    """Iterate over (file, output (D,), error) of images, see `predict_images`. The output is that of the model, logits,
    or of another function of normalised images, in float32.
    """
    one = isinstance(images, (str, os.PathLike))
    files = [os.fspath(image) for image in ([images] if one else images)]
    files = find_images(files) if find else [*map(named, files)]
    workers = default_workers() if workers is None else workers
    options = dict(device=device, amp=amp, amp_dtype=amp_dtype, channels_last=channels_last)
    options.update(bit_depth=bit_depth, background=background, max_pixels=max_pixels)
    return _outputs(
        model,
        files,
        partial(ImageFiles, files),
        dict(batch_size=batch_size, num_workers=workers if len(files) > batch_size else 0),
        forward,
        **options,
    )


def sample_outputs(
    model: nn.Module, batches: Iterable[List[Sample]], *, workers: Optional[int] = None, **options: Any
) -> Iterator[Tuple[str, np.ndarray, str]]:
    """Iterate over (name, output (D,), error) of the samples of a stream, see `image_outputs` for the options.

    A few batches for each worker are in memory.
    """
    batches, again = tee(batches)
    names = (sample.name for batch in again for sample in batch)
    loading = dict(batch_sampler=batches, num_workers=default_workers() if workers is None else workers)
    return _outputs(model, names, SampleImages, loading, **options)


def _outputs(
    model: nn.Module,
    names: Iterable[str],
    images: Callable[..., Dataset],
    loading: Dict[str, Any],
    forward: Optional[Forward] = None,
    device: Union[None, str, torch.device] = None,
    amp: bool = False,
    amp_dtype: str = 'bfloat16',
    channels_last: bool = False,
    bit_depth: Optional[int] = None,
    background: Optional[str] = None,
    max_pixels: Optional[int] = None,
) -> Iterator[Tuple[str, np.ndarray, str]]:
    """Iterate over (name, output (D,), error) of the images that arguments of a `DataLoader` load."""
    config = resolve_preprocessing(model)
    decoder = Decoder(bit_depth, background, max_pixels, MODES[config['input_size'][0]])
    decoder = decoder.for_model(model.pretrained_cfg)
    device = check_device(device)
    model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    dataset = images(transform=create_transform(**config, use_prefetcher=True), decoder=decoder)
    loader = DataLoader(dataset, collate_fn=collate, pin_memory=device.type == 'cuda', **loading)
    batches = PrefetchLoader(loader, config['mean'], config['std'], config['input_size'][0], device)
    autocast = autocast_context(device, amp, amp_dtype)

    def outputs() -> Iterator[Tuple[str, np.ndarray, str]]:
        remaining = iter(names)
        for rows, errors in compute_logits(model, batches, autocast, channels_last=channels_last, forward=forward):
            for of_image, error, name in zip(rows.cpu().numpy(), errors, remaining):
                yield name, of_image, error

    return outputs()
