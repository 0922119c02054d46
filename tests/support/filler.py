"""Deterministic weights by name, so that a golden case needs no stored weights."""

import functools
import json
import math
import random
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / 'golden'
SMALL = 1 << 14  # numbers of a tensor that is kept: those of narrow models


def fill(name, shape, seed=0):
    if math.prod(shape) > SMALL:
        return _draw(name, shape, seed)
    return _draw_once(name, tuple(shape), seed).clone()


def _draw(name, shape, seed):
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


_draw_once = functools.lru_cache(maxsize=None)(_draw)  # narrow models are filled hundreds of times


def image(shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def published_shapes(name):
    """Published tensor names and shapes of a checkpoint, without the relative position matrices."""
    shapes = json.loads((GOLDEN / f'{name}_state_dict.json').read_text())
    return {key: tuple(shape) for key, shape in shapes.items() if not key.endswith('.relative_pos')}


# A trunk as deep as Ti and S at a sixth of the width of Ti, for tests in which width plays no part.
NARROW = (8, 16, 40, 64)
NARROW_VIG = 32


def narrow(shapes):
    """Shapes of a published checkpoint of width Ti for a trunk of channels NARROW, or NARROW_VIG."""
    return {
        name: tuple(size // 6 if axis < 2 and size % 6 == 0 else size for axis, size in enumerate(shape))
        for name, shape in shapes.items()
    }


def published_gkgnet(img_size, num_classes, variant='ti', seed=0, label_depth=1):
    """A filled state dict in the published format of GKGNet, of width Ti or S, or of channels NARROW."""
    shapes = published_shapes('gkgnet_coco_576' if variant == 's' else 'gkgnet_ti_224_voc')
    if variant == 'narrow':
        shapes = narrow(shapes)
    for name in list(shapes):
        if name == 'backbone.pos_embed':
            shapes[name] = (1, shapes[name][1], img_size // 4, img_size // 4)
        elif name == 'backbone.label_lt.weight' or name.startswith('head.'):
            shapes[name] = (num_classes, *shapes[name][1:])
        elif name.startswith('backbone.gcn_label.3.0.'):
            for depth in range(1, label_depth):
                shapes[name.replace('.3.0.', f'.3.{depth}.')] = shapes[name]
    return {name: fill(name, shape, seed) for name, shape in shapes.items()}


def published_pvig(num_classes=1000, variant='ti', seed=0, family='pvig'):
    """A filled state dict in the published format of Pyramid ViG or ViG, of any width or a sixth of that of Ti."""
    shapes = published_shapes(f'{family}_{"ti" if variant == "narrow" else variant}_224')
    if variant == 'narrow':
        shapes = narrow(shapes)
    for name in ('prediction.4.weight', 'prediction.4.bias'):
        shapes[name] = (num_classes, *shapes[name][1:])
    return {name: fill(name, shape, seed) for name, shape in shapes.items()}


def fill_model(model, seed=0):
    """Fill a model by its own names, running statistics and position embedding included."""
    state_dict = {}
    for name, value in model.state_dict().items():
        published = name.replace('fc2.bn.weight', 'fc2.1.weight').replace('label_embed', 'label_lt')
        state_dict[name] = fill(published, tuple(value.shape), seed)
    model.load_state_dict(state_dict)
    return model


def mmcls(state_dict, **meta):
    """As the published training framework wrote it from a wrapped model, with keys in no particular order."""
    keys = list(state_dict)
    random.Random(0).shuffle(keys)
    momentum = {i: dict(step=7, exp_avg=torch.zeros(3)) for i in range(2)}
    return dict(
        meta=dict(epoch=70, iter=179620, mmcls_version='0.15.0', config='model = dict(...)', **meta),
        state_dict={f'module.{key}': state_dict[key] for key in keys},
        optimizer=dict(state=momentum, param_groups=[dict(lr=1e-4, betas=(0.9, 0.999), params=[0, 1])]),
    )
