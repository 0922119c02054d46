"""A small multi-label data set of drawn shapes, stored in COCO format."""

import colorsys
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Tuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..runtime import cache_dir, clear_drafts
from .progress_bar import ProgressBar

__all__ = ['demo_root', 'draw_scene']

VERSION = 1  # of the drawings, part of the folder name
SPLITS = {'train': 1600, 'val': 400}  # number of images
SIZE = 96  # side of an image in pixels
OVERSAMPLING = 2
MAX_OBJECTS = 4
MIN_VISIBLE = 0.4  # smallest visible share of an object; whatever would hide more of it is not drawn
Polygon = List[Tuple[float, float]]


def _regular(corners: int) -> Polygon:
    return [(math.sin(2 * math.pi * i / corners), -math.cos(2 * math.pi * i / corners)) for i in range(corners)]


def _star() -> Polygon:
    return [(x * r, y * r) for (x, y), r in zip(_regular(10), [1, 0.42] * 5)]


def _ring() -> Polygon:
    outer = _regular(32) + _regular(32)[:1]
    return outer + [(0.55 * x, 0.55 * y) for x, y in reversed(outer)]


def _crescent() -> Polygon:
    outer = [(math.cos(t), math.sin(t)) for t in np.linspace(0.25 * math.pi, 1.75 * math.pi, 24)]
    inner = [(0.25 + 0.84 * math.cos(t), 0.84 * math.sin(t)) for t in np.linspace(1.68 * math.pi, 0.32 * math.pi, 24)]
    return outer + inner


def _cross() -> Polygon:
    arm = [(-0.3, -0.3), (-0.3, -0.95), (0.3, -0.95)]
    return [(x * c - y * s, x * s + y * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in arm]


# within the unit circle
SHAPES: Dict[str, Callable[[], Polygon]] = {
    'circle': lambda: _regular(32),
    'triangle': lambda: _regular(3),
    'square': lambda: _regular(4),
    'star': _star,
    'cross': _cross,
    'ring': _ring,
    'crescent': _crescent,
    'bar': lambda: [(-0.97, -0.2), (0.97, -0.2), (0.97, 0.2), (-0.97, 0.2)],
}


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Draw blurred colour noise of random coarseness on a random colour."""
    coarse = rng.integers(2, 12)
    patches = rng.normal(rng.uniform(40, 215, 3), rng.uniform(5, 30), (coarse, coarse, 3))
    image = Image.fromarray(patches.clip(0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return image.filter(ImageFilter.GaussianBlur(OVERSAMPLING))


def _object_color(rng: np.random.Generator, name: str) -> Tuple[int, int, int]:
    # hues of neighbouring classes overlap: colour is a hint that a model learns in a few epochs, the shape decides
    hue = (list(SHAPES).index(name) / len(SHAPES) + rng.normal(0, 0.06)) % 1
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 1), rng.uniform(0.5, 1)))


def draw_scene(rng: np.random.Generator) -> Tuple[Image.Image, List[Tuple[str, List[float], float]]]:
    """Draw a scene of 0 to 4 objects of any class, scale and rotation, later ones over earlier ones.

    Returns:
        The image, and for each object its class, box (x, y, width, height) and visible area in pixels.
    """
    side = SIZE * OVERSAMPLING
    image = _background(rng, side)
    owner = np.zeros((side, side), dtype=np.uint8)  # 1 + index of the object visible at a pixel
    objects, areas = [], []
    for _ in range(rng.integers(0, MAX_OBJECTS + 1)):
        name = str(rng.choice(list(SHAPES)))
        radius = side * rng.uniform(0.13, 0.3)
        center = rng.uniform(radius, side - radius, 2)
        angle = rng.uniform(0, 2 * math.pi)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        points = [tuple(point) for point in np.array(SHAPES[name]()) @ turn.T * radius + center]
        color = _object_color(rng, name)
        mask = Image.new('1', (side, side))
        ImageDraw.Draw(mask).polygon(points, fill=1)
        mask = np.asarray(mask)
        shown = np.where(mask, len(objects) + 1, owner)
        visible = [np.count_nonzero(shown == i + 1) / area for i, area in enumerate(areas)]
        if visible and min(visible) < MIN_VISIBLE:
            continue
        owner = shown
        areas.append(np.count_nonzero(mask))
        ImageDraw.Draw(image).polygon(points, fill=color)
        rows, cols = np.nonzero(mask)
        box = [cols.min(), rows.min(), cols.max() - cols.min() + 1, rows.max() - rows.min() + 1]
        objects.append((name, [float(v) / OVERSAMPLING for v in box]))
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.float64)
    pixels += rng.normal(0, rng.uniform(2, 14), pixels.shape)
    scene = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    shown_areas = [np.count_nonzero(owner == i + 1) / OVERSAMPLING**2 for i in range(len(objects))]
    return scene, [(name, box, float(area)) for (name, box), area in zip(objects, shown_areas)]


def _write_split(root: Path, split: str, count: int, seed: int, bar: ProgressBar) -> None:
    names = list(SHAPES)
    images, annotations = [], []
    (root / split).mkdir(parents=True)
    for index in range(count):
        scene, objects = draw_scene(np.random.default_rng((seed, index)))
        file_name = f'{index:06d}.png'
        scene.save(root / split / file_name)
        images.append(dict(id=index + 1, file_name=file_name, width=SIZE, height=SIZE))
        for name, box, area in objects:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index + 1,
                    category_id=names.index(name) + 1,
                    bbox=box,
                    area=area,
                    iscrowd=0,
                )
            )
        bar.update()
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
    (root / 'annotations').mkdir(exist_ok=True)
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content), encoding='utf-8')


def demo_root(splits: Mapping[str, int] = SPLITS) -> Path:
    """Return the folder of the demo data set, `demo-v1` in the package's cache, which is drawn on first use.

    It appears whole or not at all, even when several processes draw it at once.

    Args:
        splits: Number of images of each split, if it is to be drawn.
    """
    cache = cache_dir()
    root = cache / f'demo-v{VERSION}'
    if root.is_dir():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    clear_drafts(cache, '.demo-')
    draft = Path(tempfile.mkdtemp(prefix='.demo-', dir=cache))
    try:
        with ProgressBar(sum(splits.values()), 'drawing the demo set') as bar:
            for seed, (split, count) in enumerate(splits.items()):
                _write_split(draft, split, count, seed, bar)
        draft.chmod(0o755)  # a cache may be shared
        draft.rename(root)
    except OSError:
        if not root.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return root
