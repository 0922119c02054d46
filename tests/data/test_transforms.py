"""Augmentations: distributions and exact results against independent definitions, and the order they come in."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision import transforms

from timm.data import create_transform

from gkgnet_timm.data.transforms import TRIVIAL_OPS, CropMix, NoiseErasing, TrivialAugment, create_train_transform

SIZE = (24, 32)  # height, width


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def noise_image(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth_image(width=40, height=30):
    return noise_image(5, 4).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def spied_views(monkeypatch):
    """Area ranges, boxes and images of the views that were cropped, in this order."""
    seen = []
    get_params = transforms.RandomResizedCrop.get_params

    def spy(img, scale, ratio):
        box = get_params(img, scale, ratio)
        seen.append((tuple(scale), ratio, box))
        return box

    monkeypatch.setattr(transforms.RandomResizedCrop, 'get_params', staticmethod(spy))
    return seen


def mix_in_sequence(views, lams, permutations):
    """The published definition, in levels as float64: (H, W, 3) views to their mixture."""
    mixed = views[0]
    for view, lam, order in zip(views[1:], lams, permutations):
        a, b = (mixed, view[..., order]) if lam > 0.5 else (mixed[..., order], view)
        mixed = lam * a + (1 - lam) * b
    return mixed


def test_unmixed_is_bicubic_squash():
    image = noise_image()
    expected = np.asarray(image.resize(SIZE[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(CropMix(SIZE, prob=0)(image)), expected)
    seed_all(0)
    plain = [np.array_equal(np.asarray(CropMix(SIZE, prob=0.3)(image)), expected) for _ in range(400)]
    assert 0.62 < np.mean(plain) < 0.78


def test_cropmix_views(spied_views):
    image = noise_image(200, 150)
    mix = CropMix(SIZE, prob=1, alpha=4)  # no view of negligible weight, which would not be made
    third, quarter = 0.99 / 3, 0.99 / 4
    expected = {
        2: [(0.01, 1), (0.99, 1)],
        3: [(0.01, 0.01 + third), (0.01 + third, 0.01 + 2 * third), (0.99, 1)],
        4: [(0.01 + i * quarter, 0.01 + (i + 1) * quarter) for i in range(3)] + [(0.99, 1)],
    }
    counts, places = Counter(), Counter()
    seed_all(0)
    for _ in range(600):
        spied_views.clear()
        mix(image)
        n = len(spied_views)
        counts[n] += 1
        ranges = [view[0] for view in spied_views]
        np.testing.assert_allclose(ranges if n == 2 else sorted(ranges), expected[n], rtol=1e-12)
        places[n, ranges.index((0.99, 1.0))] += 1
        for (low, high), ratio, (top, left, height, width) in spied_views:
            assert ratio == (3 / 4, 4 / 3)
            assert 0 <= top <= 150 - height and 0 <= left <= 200 - width
            assert low - 0.02 < height * width / (200 * 150) < high + 0.02  # rounding to whole pixels
    assert set(counts) == {2, 3, 4} and all(160 < count < 240 for count in counts.values())
    assert set(places) == {(2, 1), *((3, i) for i in range(3)), *((4, i) for i in range(4))}
    assert all(30 < count for count in places.values())  # the whole image comes at any place


@pytest.mark.parametrize('n', [2, 3, 4])
def test_cropmix_is_the_sequential_mixture(n, monkeypatch, spied_views):
    """Sum over views with accumulated weights = one mix after the other, also the truncation."""
    image = smooth_image()
    real = dict(beta=random.betavariate, sample=random.sample)
    drawn = []
    monkeypatch.setattr(random, 'randint', lambda low, high: n)
    monkeypatch.setattr(random, 'betavariate', lambda *a: drawn.append(real['beta'](*a)) or drawn[-1])
    monkeypatch.setattr(random, 'sample', lambda *a: drawn.append(real['sample'](*a)) or drawn[-1])
    mix = CropMix(SIZE, prob=1, alpha=4)  # most weights count
    seed_all(n)
    for _ in range(20):
        drawn.clear()
        spied_views.clear()
        out = np.asarray(mix(image)).astype(int)
        assert out.shape == (*SIZE, 3) and len(drawn) == 2 * (n - 1)
        views = []
        for _, _, (top, left, height, width) in spied_views:
            crop = image.crop((left, top, left + width, top + height))
            views.append(np.asarray(crop.resize(SIZE[::-1], Image.Resampling.BILINEAR)).astype(np.float64))
        exact = mix_in_sequence(views, drawn[::2], drawn[1::2])
        assert (exact.max((0, 1)) - exact.min((0, 1)) > 10).all()
        assert (np.abs(out - np.floor(exact)) <= 2).all()  # torch and Pillow round a resized pixel differently
        assert abs(np.mean(exact - out) - 0.5) < 0.2  # truncated: 0 if rounded


def test_cropmix_draws_weights_and_orders(monkeypatch):
    mix = CropMix(SIZE)
    seed_all(0)
    for n, a in ((2, 0.2), (3, 0.4 / 3), (4, 0.1)):
        parts = [mix.mixture(n) for _ in range(2000)]
        np.testing.assert_allclose([sum(weight for weight, _ in part) for part in parts], 1, rtol=1e-12)
        last = np.array([part[-1][0] for part in parts])  # 1 - lam of the last mix
        assert abs(last.mean() - 0.5) < 0.05
        assert abs(last.var() - 0.25 / (2 * a + 1)) < 0.012  # of Beta(a, a)
    counts = Counter(tuple(order) for part in parts for weight, order in part[-1:] if weight < 0.5)
    assert len(counts) == 6 and min(counts.values()) > 120  # all orders of three channels, of about 1000
    assert all(part[-1][1] == [0, 1, 2] for part in parts if part[-1][0] > 0.5)  # the heavier side keeps its colours
    lams = iter([0.7, 0.2])
    monkeypatch.setattr(random, 'betavariate', lambda a, b: next(lams))
    monkeypatch.setattr(random, 'sample', lambda population, k: [1, 2, 0])
    weights, orders = zip(*mix.mixture(3))
    np.testing.assert_allclose(weights, [0.14, 0.06, 0.8], rtol=1e-12)
    assert orders == ([1, 2, 0], [2, 0, 1], [0, 1, 2])


@pytest.mark.parametrize('lam', [0.0, 1e-12, 2**-25, 1 - 1e-12, 1.0])
def test_view_of_weight_one_survives_exactly(lam, monkeypatch):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels, levels.T, 255 - levels], -1))
    monkeypatch.setattr(random, 'betavariate', lambda a, b: lam)
    monkeypatch.setattr(
        transforms.RandomResizedCrop, 'get_params', staticmethod(lambda img, scale, ratio: (0, 0, 16, 16))
    )
    seed_all(0)
    for _ in range(10):
        np.testing.assert_array_equal(np.asarray(CropMix((16, 16), prob=1)(image)), np.asarray(image))


def test_erasing_boxes():
    height, width = 90, 120
    image = Image.new('RGB', (width, height), (255, 0, 255))  # noise of zero spread is seen everywhere
    pixels = np.asarray(image)
    erase = NoiseErasing(prob=0.5, std=(0, 0, 0))
    areas, aspects, untouched, ends = [], [], 0, []
    seed_all(0)
    for _ in range(1500):
        out = np.asarray(erase(image))
        changed = (out != pixels).any(-1)
        if not changed.any():
            untouched += 1
            continue
        rows, cols = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = out[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        assert (box == (123, 116, 103)).all() and changed.sum() == box.shape[0] * box.shape[1]
        areas.append(changed.mean())
        aspects.append(np.log(box.shape[0] / box.shape[1]))
        ends.append((rows[0], cols[0], height - 1 - rows[-1], width - 1 - cols[-1]))
    np.testing.assert_array_equal(np.asarray(image), pixels)  # the input isn't written
    assert 690 < untouched < 810
    assert 0.019 < min(areas) < 0.03 and 0.31 < max(areas) < 0.345
    assert abs(np.mean(areas) - 0.1767) < 0.01
    assert abs(min(aspects) + 1.2) < 0.1 and abs(max(aspects) - 1.2) < 0.1 and abs(np.mean(aspects)) < 0.08
    top, left, below, right = np.array(ends).T
    assert min(top) == min(left) == 0
    full_height, full_width = top + below == 0, left + right == 0
    assert below[~full_height].min() == right[~full_width].min() == 1  # upper bounds are exclusive


def test_erasing_noise():
    seed_all(0)
    erase, image = NoiseErasing(prob=1), Image.new('RGB', (300, 300))
    boxes = [np.asarray(erase(image)) for _ in range(20)]
    noise = np.concatenate([box[box.any(-1)] for box in boxes]).astype(np.float64)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    reference = np.random.default_rng(1).normal(mean, std, (200_000, 3)).astype(int).clip(0, 255)
    np.testing.assert_allclose(noise.mean(0), reference.mean(0), atol=0.6)
    np.testing.assert_allclose(noise.std(0), reference.std(0), atol=0.6)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02  # channels are independent
    for level in (0, 255):  # clipped, not wrapped
        np.testing.assert_allclose((noise == level).mean(0), (reference == level).mean(0), atol=0.002)


def affine(*matrix):
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fill=1)


def blended(base, factor):
    return lambda image: Image.blend(base(image), image, factor)


def mean_grey(image):
    grey = np.asarray(image.convert('L'))
    return Image.new('RGB', image.size, (int(grey.mean() + 0.5),) * 3)


def same(image):
    return image


# op: expected at level 0, at level 30 with sign 1, and at level 30 with sign -1 where it differs
TRIVIAL = {
    'identity': (same, same),
    'autocontrast': (ImageOps.autocontrast, ImageOps.autocontrast),
    'equalize': (ImageOps.equalize, ImageOps.equalize),
    'rotate': (same, lambda image: image.rotate(30), lambda image: image.rotate(-30)),
    'solarize': (same, ImageOps.invert),
    'posterize': (same, lambda image: image.point(lambda v: v & 0b11110000)),
    'color': tuple(blended(lambda image: image.convert('L').convert('RGB'), f) for f in (0.1, 1.9)),
    'contrast': tuple(blended(mean_grey, f) for f in (0.1, 1.9)),
    'brightness': tuple(blended(lambda image: Image.new('RGB', image.size), f) for f in (0.1, 1.9)),
    'sharpness': tuple(blended(lambda image: image.filter(ImageFilter.SMOOTH), f) for f in (0.1, 1.9)),
    'shear_x': (same, affine(1, 0.3, 0, 0, 1, 0), affine(1, -0.3, 0, 0, 1, 0)),
    'shear_y': (same, affine(1, 0, 0, 0.3, 1, 0), affine(1, 0, 0, -0.3, 1, 0)),
    'translate_x': (same, affine(1, 0, 10, 0, 1, 0), affine(1, 0, -10, 0, 1, 0)),
    'translate_y': (same, affine(1, 0, 0, 0, 1, 10), affine(1, 0, 0, 0, 1, -10)),
}


@pytest.mark.parametrize('name', TRIVIAL)
def test_trivial_op(name):
    image = Image.fromarray(np.asarray(noise_image(48, 40)) // 2 + 60)  # autocontrast and equalize have work
    low, high, negative = TRIVIAL[name] if len(TRIVIAL[name]) == 3 else (*TRIVIAL[name], TRIVIAL[name][1])
    for level, sign, expected in ((0, 1, low), (0, -1, low), (30, 1, high), (30, -1, negative)):
        actual = TRIVIAL_OPS[name](image, level, sign)
        np.testing.assert_array_equal(np.asarray(actual), np.asarray(expected(image)))


def test_trivial_levels_between():
    image = noise_image(48, 40)
    for level, bits, threshold, pixels in ((7, 8, 197, 2), (8, 7, 188, 2), (15, 6, 128, 5), (29, 5, 9, 9)):
        expected = [image.point(lambda v, bits=bits: v >> 8 - bits << 8 - bits), ImageOps.solarize(image, threshold)]
        expected += [affine(1, 0, -pixels, 0, 1, 0)(image), ImageEnhance.Color(image).enhance(0.1 + 0.06 * level)]
        for name, picture in zip(('posterize', 'solarize', 'translate_x', 'color'), expected):
            actual = np.asarray(TRIVIAL_OPS[name](image, level, -1)).astype(int)
            assert np.abs(actual - np.asarray(picture)).max() <= (name == 'color'), (name, level)


def test_trivial_draws_uniformly(monkeypatch):
    assert set(TRIVIAL_OPS) == set(TRIVIAL) and len(TRIVIAL) == 14
    drawn = []
    for name in TRIVIAL_OPS:
        monkeypatch.setitem(TRIVIAL_OPS, name, lambda img, level, sign, name=name: drawn.append((name, level, sign)))
    seed_all(0)
    for _ in range(6200):
        TrivialAugment()(None)
    names, levels, signs = (Counter(values) for values in zip(*drawn))
    assert len(names) == 14 and 340 < min(names.values()) and max(names.values()) < 550  # of 443
    assert sorted(levels) == list(range(31)) and 140 < min(levels.values()) and max(levels.values()) < 260  # of 200
    assert set(signs) == {1, -1} and abs(signs[1] - 3100) < 160


RECIPE = dict(cropmix=0.5, reprob=0.5, auto_augment='trivial')


def steps_of(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_order_of_steps():
    crop, flip, jitter, end = (
        'RandomResizedCropAndInterpolation',
        'RandomHorizontalFlip',
        'ColorJitter',
        'MaybePILToTensor',
    )
    recipe = create_train_transform((3, *SIZE), **RECIPE)
    assert steps_of(recipe) == ['CropMix', flip, 'NoiseErasing', jitter, 'TrivialAugment', end]
    assert recipe.transforms[0].size == SIZE and recipe.transforms[0].prob == 0.5
    assert recipe.transforms[3].brightness == recipe.transforms[3].saturation == (0.6, 1.4)
    assert create_train_transform(64, cropmix=1).transforms[0].size == (64, 64)
    assert steps_of(create_train_transform(64)) == [crop, flip, jitter, end]
    assert steps_of(create_train_transform(64, reprob=1, hflip=0, vflip=0.5, color_jitter=None)) == [
        crop, 'RandomVerticalFlip', 'NoiseErasing', end,
    ]  # fmt: skip
    with_rand = create_train_transform(64, cropmix=1, reprob=1, auto_augment='rand-m9-mstd0.5')
    assert steps_of(with_rand) == ['CropMix', flip, 'NoiseErasing', 'RandAugment', end]  # no jitter, as in timm
    v0 = create_train_transform(64, cropmix=1, auto_augment='v0')
    assert steps_of(v0) == ['CropMix', flip, 'AutoAugment', end]
    rkr = create_train_transform(64, train_crop_mode='rkrc')
    assert steps_of(rkr)[:2] == ['ResizeKeepRatio', 'CenterCropOrPad']
    erase = create_train_transform(64, reprob=1, mean=(0.5, 0.4, 0.2), std=(0.1, 0.2, 0.4)).transforms[2]
    torch.testing.assert_close(
        torch.stack([erase.mean, erase.std]), 255 * torch.tensor([[0.5, 0.4, 0.2], [0.1, 0.2, 0.4]])
    )


@pytest.mark.parametrize(
    'kwargs', [dict(), dict(no_aug=True), dict(scale=(0.5, 0.6), ratio=(1, 2), interpolation='bicubic')]
)
def test_without_own_parts_it_is_timm(kwargs):
    image = noise_image()
    expected = create_transform(32, is_training=True, use_prefetcher=True, **kwargs)
    actual = create_train_transform(32, **(dict(RECIPE, no_aug=True) if 'no_aug' in kwargs else kwargs))
    for seed in range(5):
        seed_all(seed)
        first = expected(image)
        seed_all(seed)
        assert torch.equal(torch.as_tensor(first), actual(image))


@pytest.mark.parametrize('policy', ['trivial', 'original', 'rand-m9-mstd0.5', 'augmix-m5', '3a', None])
@pytest.mark.parametrize('shape', [(1, 1), (3, 500), (500, 3), (2, 2), (40, 30)])
def test_any_image_and_policy(policy, shape):
    transform = create_train_transform(SIZE, cropmix=0.8, reprob=1, auto_augment=policy)
    seed_all(0)
    for image in (noise_image(*shape), noise_image(*shape).convert('L').convert('RGB')):
        for _ in range(6):
            out = transform(image)
            assert out.shape == (3, *SIZE) and out.dtype == torch.uint8


@pytest.mark.parametrize('shape', [(1, 1), (3, 500), (1, 9)])
def test_parts_take_tiny_images(shape):
    image = noise_image(*shape)
    seed_all(0)
    for _ in range(100):
        assert CropMix((5, 7), prob=1)(image).size == (7, 5)
        assert NoiseErasing(prob=1)(image).size == shape
        assert TrivialAugment()(image).size == shape


def test_grey_stays_grey():
    """Orders of the channels don't matter to a grey image, so nothing in CropMix may colour it."""
    image = smooth_image().convert('L').convert('RGB')
    seed_all(0)
    for _ in range(20):
        pixels = np.asarray(CropMix(SIZE, prob=1)(image)).astype(int)
        assert np.ptp(pixels, axis=-1).max() == 0
        assert np.ptp(pixels) > 5


def test_seeds_reproduce():
    transform, image = create_train_transform(SIZE, **RECIPE), noise_image()

    def epoch(seed):
        seed_all(seed)
        return torch.stack([transform(image) for _ in range(16)])

    first = epoch(1)
    assert torch.equal(first, epoch(1))
    assert not torch.equal(first, epoch(2))
    assert len({tuple(out.flatten().tolist()) for out in first}) == 16


def test_errors():
    for name in ('cropmix', 'reprob', 'hflip', 'vflip'):
        for value in (-0.1, 1.5, float('nan')):
            with pytest.raises(ValueError, match=rf'{name} is {value}, expected a probability in \[0, 1\]'):
                create_train_transform(32, **{name: value})
    with pytest.raises(ValueError, match='CropMix is 2, expected'):
        CropMix(SIZE, prob=2)
    with pytest.raises(ValueError, match='erasing is -1, expected'):
        NoiseErasing(-1)
    with pytest.raises(ValueError, match="train_crop_mode is 'rkrr', expected 'rrc' with cropmix"):
        create_train_transform(32, cropmix=0.5, train_crop_mode='rkrr')
