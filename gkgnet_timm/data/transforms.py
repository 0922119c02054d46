"""Augmentations of the published training that torchvision and timm lack, and the transform built from them."""

import math
import random
from typing import Callable, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision import transforms
from torchvision.transforms.v2.functional import resized_crop

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform

__all__ = ['TRIVIAL_OPS', 'CropMix', 'NoiseErasing', 'TrivialAugment', 'create_train_transform']

CROP_RATIO = (3 / 4, 4 / 3)
WHOLE = 0.99  # smallest area of the view that shows the whole image
LEAST_WEIGHT = 2**-25  # below it, a view is lost in the rounding of float32 sums and need not be made
MAX_LEVEL = 30


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f'{name} is {value}, expected a probability in [0, 1].')


class CropMix:
    """Mix two to four random crops of one image, so that its labels hold at several scales at once.

    https://arxiv.org/abs/2205.15955 in the form of the published training. An image that is not mixed is squashed to
    the output size with bicubic interpolation; crops are resized bilinearly. The mix truncates to whole levels as the
    published one does: pixels that are equal in all crops may lose a level, but not where a weight is 1.

    Args:
        size: Height and width of the output in pixels.
        prob: Probability of mixing, in [0, 1].
        scale: Smallest area of a crop as a fraction of the image, in (0, 0.99].
        alpha: Weights of n crops are drawn from Beta(alpha / n, alpha / n), mostly near 0 or 1.
    """

    def __init__(self, size: Tuple[int, int], prob: float = 0.5, scale: float = 0.01, alpha: float = 0.4):
        _check_probability('Probability of CropMix', prob)
        self.size: Tuple[int, ...] = tuple(size)
        self.prob = prob
        self.scale = scale
        self.alpha = alpha

    def areas(self, n: int) -> List[Tuple[float, float]]:
        """Return the range of the area of each of n views, as fractions of the image, from zoomed in to whole."""
        if n == 2:
            return [(self.scale, 1.0), (WHOLE, 1.0)]
        bounds = np.linspace(self.scale, 1, n + 1).tolist()
        return list(zip(bounds[: n - 1], bounds[1:n])) + [(WHOLE, 1.0)]

    def mixture(self, n: int) -> List[Tuple[float, List[int]]]:
        """Draw weight and channel order of n views.

        Views join the mixture one after the other. Each time, the channels of the lighter side are permuted: the new
        view, or all views before it. Since mixing is linear, summing the views with these weights and orders is the
        same.

        Returns:
            For each view its weight (all weights sum to 1), and the channels that become red, green and blue.
        """
        parts = [(1.0, [0, 1, 2])]
        for _ in range(n - 1):
            lam = random.betavariate(self.alpha / n, self.alpha / n)
            shuffled = random.sample(range(3), 3)
            if lam > 0.5:
                parts = [(weight * lam, order) for weight, order in parts] + [(1 - lam, shuffled)]
            else:
                parts = [(weight * lam, [order[i] for i in shuffled]) for weight, order in parts]
                parts.append((1 - lam, [0, 1, 2]))
        return parts

    def __call__(self, img: Image.Image) -> Image.Image:
        height, width = self.size
        if img.mode == 'L':
            return self(img.convert('RGB')).convert('L')
        if random.random() >= self.prob:
            return img.resize((width, height), Image.Resampling.BICUBIC)
        n = random.randint(2, 4)
        areas = self.areas(n)
        if n > 2:
            random.shuffle(areas)
        parts = [(*part, area) for part, area in zip(self.mixture(n), areas) if part[0] >= LEAST_WEIGHT]
        weights, orders, areas = zip(*parts)
        # torch resizes a uint8 tensor several times faster than Pillow, with a difference of at most a level
        image = torch.from_numpy(np.array(img)).permute(2, 0, 1)
        views = []
        for area in areas:
            box = transforms.RandomResizedCrop.get_params(image, area, CROP_RATIO)
            views.append(resized_crop(image, *box, self.size, antialias=True).reshape(3, -1).numpy())
        weights = np.array(weights, dtype=np.float32)
        planes = np.empty((len(parts), height * width), dtype=np.float32)
        bands = []
        for sources in zip(*orders):  # for each view, its channel that goes into this band
            for k, source in enumerate(sources):
                planes[k] = views[k][source]
            bands.append(Image.fromarray((weights @ planes).astype(np.uint8).reshape(height, width)))
        return Image.merge('RGB', bands)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, prob={self.prob}, scale={self.scale}, alpha={self.alpha})'


class NoiseErasing:
    """Fill a random box of an image with Gaussian noise, as in the published training.

    The box covers 2 % to 33 % of the image at aspect ratios of 0.3 to 3.3, cut to the size of the image.

    Args:
        prob: Probability of erasing, in [0, 1].
        mean: Mean of the noise for red, green and blue, where 1 is white.
        std: Standard deviation of the noise for red, green and blue, in the same unit.
    """

    def __init__(
        self,
        prob: float = 0.5,
        mean: Tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: Tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ):
        _check_probability('Probability of erasing', prob)
        self.prob = prob
        self.mean: torch.Tensor = 255 * torch.tensor(mean)
        self.std: torch.Tensor = 255 * torch.tensor(std)

    def __call__(self, img: Image.Image) -> Image.Image:
        if random.random() >= self.prob:
            return img
        aspect = math.exp(random.uniform(math.log(0.3), math.log(10 / 3)))
        area = img.height * img.width * random.uniform(0.02, 1 / 3)
        height = min(round(math.sqrt(area * aspect)), img.height)
        width = min(round(math.sqrt(area / aspect)), img.width)
        # a box never touches the last row or column unless it spans the image
        top = random.randrange(max(img.height - height, 1))
        left = random.randrange(max(img.width - width, 1))
        channels = len(img.getbands())
        noise = torch.randn(height, width, channels).mul_(self.std).add_(self.mean).clamp_(0, 255).to(torch.uint8)
        img = img.copy()
        img.paste(Image.fromarray(noise.numpy().squeeze(2) if channels == 1 else noise.numpy()), (left, top))
        return img

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'


def _affine(img: Image.Image, *matrix: float) -> Image.Image:
    return img.transform(img.size, Image.Transform.AFFINE, matrix)  # nearest neighbour, black outside the image


def _enhance(method: Callable, img: Image.Image, level: int) -> Image.Image:
    return method(img).enhance(0.1 + 1.8 * level / MAX_LEVEL)


# each takes an image, a level in 0 to 30 and a sign, which some ignore
TRIVIAL_OPS: Dict[str, Callable[[Image.Image, int, int], Image.Image]] = {
    'identity': lambda img, level, sign: img,
    'autocontrast': lambda img, level, sign: ImageOps.autocontrast(img),
    'equalize': lambda img, level, sign: ImageOps.equalize(img),
    'rotate': lambda img, level, sign: img.rotate(sign * level),
    'solarize': lambda img, level, sign: ImageOps.solarize(img, 256 - int(level * 256 / MAX_LEVEL)),
    'posterize': lambda img, level, sign: ImageOps.posterize(img, 8 - int(level * 4 / MAX_LEVEL)),
    'color': lambda img, level, sign: _enhance(ImageEnhance.Color, img, level),
    'contrast': lambda img, level, sign: _enhance(ImageEnhance.Contrast, img, level),
    'brightness': lambda img, level, sign: _enhance(ImageEnhance.Brightness, img, level),
    'sharpness': lambda img, level, sign: _enhance(ImageEnhance.Sharpness, img, level),
    'shear_x': lambda img, level, sign: _affine(img, 1, sign * 0.3 * level / MAX_LEVEL, 0, 0, 1, 0),
    'shear_y': lambda img, level, sign: _affine(img, 1, 0, 0, sign * 0.3 * level / MAX_LEVEL, 1, 0),
    'translate_x': lambda img, level, sign: _affine(img, 1, 0, sign * int(level * 10 / MAX_LEVEL), 0, 1, 0),
    'translate_y': lambda img, level, sign: _affine(img, 1, 0, 0, 0, 1, sign * int(level * 10 / MAX_LEVEL)),
}


class TrivialAugment:
    """Apply one random operation at a random level, https://arxiv.org/abs/2103.10158.

    The operations and their ranges are those of the published training: narrower than the paper's and torchvision's.
    """

    def __call__(self, img: Image.Image) -> Image.Image:
        op = random.choice(list(TRIVIAL_OPS.values()))
        return op(img, random.randint(0, MAX_LEVEL), random.choice((-1, 1)))

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


def create_train_transform(
    input_size: Union[int, Tuple[int, int], Tuple[int, int, int]],
    *,
    cropmix: float = 0.0,
    reprob: float = 0.0,
    no_aug: bool = False,
    scale: Optional[Tuple[float, float]] = None,
    ratio: Optional[Tuple[float, float]] = None,
    hflip: float = 0.5,
    vflip: float = 0.0,
    color_jitter: Optional[Union[float, Tuple[float, ...]]] = 0.4,
    auto_augment: Optional[str] = None,
    interpolation: str = 'bilinear',
    mean: Tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
    std: Tuple[float, ...] = IMAGENET_DEFAULT_STD,
    train_crop_mode: Optional[str] = None,
) -> Callable[[Image.Image], torch.Tensor]:
    """Create a training transform from RGB images to uint8 tensors (3, H, W), which timm's loader normalises.

    The published training uses cropmix 0.5, hflip 0.5, reprob 0.5, color_jitter 0.4 and auto_augment 'trivial'.
    Arguments that are not listed here are those of `timm.data.create_transform`.

    Args:
        input_size: Side of a square, (H, W) or (C, H, W).
        cropmix: Probability of `CropMix`; above 0 it replaces the random crop with its scale and ratio.
        reprob: Probability of `NoiseErasing`, which comes between flips and colour jitter.
        no_aug: Only resize and crop the centre.
        auto_augment: 'trivial' for `TrivialAugment` after the colour jitter, or a policy of timm.
        mean: Mean of the images and of the noise, where 1 is white.
        std: Standard deviation of the images and of the noise.
    """
    for name, value in dict(cropmix=cropmix, reprob=reprob, hflip=hflip, vflip=vflip).items():
        _check_probability(name, value)
    if cropmix > 0 and train_crop_mode not in (None, 'rrc'):
        raise ValueError(f"train_crop_mode is {train_crop_mode!r}, expected 'rrc' with cropmix.")
    common = dict(is_training=True, interpolation=interpolation, mean=mean, std=std, use_prefetcher=True)
    if no_aug:
        return create_transform(input_size, no_aug=True, **common)
    trivial = auto_augment == 'trivial'
    primary, secondary, final = create_transform(
        input_size,
        train_crop_mode=train_crop_mode,
        scale=scale,
        ratio=ratio,
        hflip=hflip,
        vflip=vflip,
        color_jitter=color_jitter,
        auto_augment=None if trivial else auto_augment,
        separate=True,
        **common,
    )
    steps = list(primary.transforms)
    if cropmix > 0:
        size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size[-2:])
        steps[0] = CropMix(size, cropmix)
    if reprob > 0:
        steps.append(NoiseErasing(reprob, mean, std))
    steps += secondary.transforms
    if trivial:
        steps.append(TrivialAugment())
    return transforms.Compose(steps + final.transforms)
