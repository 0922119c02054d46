"""Scores of uploaded images, by the code of `predict_images`."""

import io
from functools import partial
from typing import Any, BinaryIO, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn as nn
from PIL import Image, UnidentifiedImageError

from timm.data import create_transform
from timm.data.loader import PrefetchLoader

from ..data import Decoder
from ..data.decode import MODES, is_heif
from ..inference.device import autocast_context, check_device
from ..inference.predictor import collate, compute_logits, probabilities
from ..weights.preprocessing import resolve_preprocessing

__all__ = ['MAX_PIXELS', 'Scorer', 'open_image']

MAX_PIXELS = 50_000_000

# Pillow reads some formats, such as EPS, by starting other programs
FORMATS = {'AVIF', 'BMP', 'GIF', 'HEIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP'}


def open_image(upload: BinaryIO, max_pixels: int) -> BinaryIO:
    """Return the bytes of an upload after a look at its head.

    Raises:
        ValueError: If it is empty, has too many pixels, or is of a format that a server should not open.
    """
    upload.seek(0)
    content = io.BytesIO(upload.read())
    if not content.getbuffer().nbytes:
        raise ValueError('it is empty')
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the limit of this server is checked here
    try:
        with Image.open(content) as image:
            kind, pixels = image.format, image.width * image.height
    except UnidentifiedImageError:
        if not is_heif(content):
            raise ValueError('it is not an image of a known format') from None
        kind, pixels = 'HEIF', 0  # of which only the decoder knows more
    finally:
        Image.MAX_IMAGE_PIXELS = before
    if kind not in FORMATS:
        raise ValueError(f'its format is {kind}, this server reads {", ".join(sorted(FORMATS - {"MPO"}))}')
    if pixels > max_pixels:
        raise ValueError(f'it has {pixels:,} pixels, this server reads images of up to {max_pixels:,}')
    content.seek(0)
    return content


class Scorer:
    """Reads images and scores batches of them. Reads one image at a time: Pillow has one limit for all threads.

    Args:
        model: Model with trained weights. It is moved to the device.
        names: Its classes.
        thresholds: Lowest score of a label, or one for each (L,).
        bit_depth: See `Decoder`, as background and max_pixels.
        device: Where the model runs (default: cuda if available).
        amp: Use automatic mixed precision.
        amp_dtype: 'bfloat16' or 'float16'.
        channels_last: Use this memory format.

    Raises:
        ValueError: If there is no such device, or the model fails or takes neither colour nor grey.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        thresholds: Union[float, Sequence[float]] = 0.5,
        *,
        bit_depth: Optional[int] = None,
        background: Optional[str] = None,
        max_pixels: int = MAX_PIXELS,
        device: Union[None, str, torch.device] = None,
        amp: bool = False,
        amp_dtype: str = 'bfloat16',
        channels_last: bool = False,
    ):
        self.model = model
        self.names: List[str] = list(names)
        self.max_pixels = max_pixels
        self.thresholds: np.ndarray = np.broadcast_to(np.asarray(thresholds, dtype=np.float32), len(self.names))
        self.config: Dict[str, Any] = resolve_preprocessing(model)
        decoder = Decoder(bit_depth, background, max_pixels, MODES[self.config['input_size'][0]])
        self.decoder: Decoder = decoder.for_model(model.pretrained_cfg)
        self.device: torch.device = check_device(device)
        self.amp = amp
        self.amp_dtype = amp_dtype
        self.channels_last = channels_last
        model.to(self.device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
        self._transform = create_transform(**self.config, use_prefetcher=True)
        self._autocast = autocast_context(self.device, amp, amp_dtype)
        # builds what the model builds on first use, and fails before anybody waits for an answer
        self.score([self._transform(Image.new(self.decoder.mode, (32, 32)))])

    def read(self, upload: BinaryIO) -> Tuple[np.ndarray, str]:
        """Return what the model takes, and '' or why the image cannot be read."""
        return self.decoder.read(partial(open_image, upload, self.max_pixels), self._transform)

    def read_original(self, upload: BinaryIO) -> Tuple[Image.Image, str]:
        """Return the upright image at its size, and '' or why it cannot be read."""
        return self.decoder.read(partial(open_image, upload, self.max_pixels))

    def score(self, images: List[np.ndarray]) -> np.ndarray:
        """Score a batch of what `read` returned: (B, L), nan where the model's scores are not finite."""
        batch: Any = [collate([(image, '') for image in images])]
        size = self.config
        loader = PrefetchLoader(batch, size['mean'], size['std'], size['input_size'][0], self.device)
        ((logits, _),) = compute_logits(self.model, loader, self._autocast, channels_last=self.channels_last)
        return np.stack([probabilities(row) for row in logits.cpu().numpy()])

    def by_name(self, values: Sequence[float]) -> Dict[str, float]:
        """Values of all classes, rounded as in the output of `predict`."""
        return {name: round(float(value), 6) for name, value in zip(self.names, values)}

    def row(self, scores: np.ndarray) -> Dict[str, Any]:
        """The labels of an image, best first, as `predict` writes them, and all scores.

        Raises:
            FloatingPointError: If scores are not finite.
        """
        if not np.isfinite(scores).all():
            raise FloatingPointError('Scores are not finite: broken weights, or numbers too large for --amp-dtype.')
        order = np.argsort(-scores, kind='stable')
        all_scores = self.by_name(scores)
        labels = [self.names[i] for i in order[(scores >= self.thresholds)[order]]]
        return dict(labels=[dict(label=label, score=all_scores[label]) for label in labels], scores=all_scores)

    def describe(self) -> Dict[str, Any]:
        """What there is to know about the model."""
        cfg, config = self.model.pretrained_cfg, self.config
        names = ('mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')
        return dict(
            class_names=self.names,
            thresholds=self.by_name(self.thresholds),
            calibrated=len(set(self.thresholds.tolist())) > 1,
            license=cfg.get('license'),
            preprocessing=dict(
                size=list(config['input_size'][1:]),
                **{name: config[name] for name in names},
                reading=self.decoder.describe(),
            ),
        )
