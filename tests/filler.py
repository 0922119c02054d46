"""Deterministic weights by name, so that a golden case needs no stored weights."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / 'golden'


def fill(name, shape, seed=0):
    rng = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    leaf = name.rsplit('.', 1)[-1]
    if leaf == 'num_batches_tracked':
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == 'running_var' or (leaf == 'weight' and len(shape) == 1):
        value = rng.uniform(0.5, 1.5, shape)
        if name.endswith('fc2.1.weight'):  # last norm of a residual branch
            value = value * 0.2
    else:
        value = rng.standard_normal(shape)
        if leaf in ('bias', 'running_mean', 'pos_embed'):
            value = value * 0.1
        elif not name.endswith('label_lt.weight'):
            value = value / math.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def image(shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def published_shapes(name):
    """Published tensor names and shapes of a checkpoint, without the relative position matrices."""
    shapes = json.loads((GOLDEN / f'{name}_state_dict.json').read_text())
    return {key: tuple(shape) for key, shape in shapes.items() if not key.endswith('.relative_pos')}


def published_gkgnet(img_size, num_classes, variant='ti', seed=0, label_depth=1):
    """A filled state dict in the published format of GKGNet, of width Ti or S."""
    shapes = published_shapes({'ti': 'gkgnet_ti_224_voc', 's': 'gkgnet_coco_576'}[variant])
    for name in list(shapes):
        if name == 'backbone.pos_embed':
            shapes[name] = (1, shapes[name][1], img_size // 4, img_size // 4)
        elif name == 'backbone.label_lt.weight' or name.startswith('head.'):
            shapes[name] = (num_classes, *shapes[name][1:])
        elif name.startswith('backbone.gcn_label.3.0.'):
            for depth in range(1, label_depth):
                shapes[name.replace('.3.0.', f'.3.{depth}.')] = shapes[name]
    return {name: fill(name, shape, seed) for name, shape in shapes.items()}
