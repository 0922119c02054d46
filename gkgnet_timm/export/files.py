"""What lies beside an exported graph: class names, thresholds and preprocessing, in the forms that others read."""

import csv
import io
import json
import math
from typing import Any, Dict, List, Sequence

from huggingface_hub import ModelCardData

__all__ = ['readme', 'sidecars', 'six_lines']

CATEGORY = dict(category=0, name='general')  # all classes are of one, as few data sets have several


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows([columns, *rows])
    return text.getvalue()


def _steps(config: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The preprocessing of timm as steps of torchvision by name.

    Raises:
        ValueError: If they cannot say it: a shorter side to resize is one number.
    """
    size = list(config['input_size'][1:])
    if config['crop_mode'] == 'center' and size[0] != size[1]:
        raise ValueError(f"crop_mode 'center' of images of {size} has no form that others read: take 'squash'.")
    resize = dict(type='resize', interpolation=config['interpolation'], antialias=True, max_size=None)
    crop = dict(type='center_crop', size=size)
    scaled = [math.floor(side / config['crop_pct']) for side in size]
    if config['crop_mode'] == 'squash':
        steps = [dict(resize, size=scaled), crop]
    elif config['crop_mode'] == 'border':
        grey = [round(255 * mean) for mean in config['mean']]
        padded = dict(
            type='pad_to_size', size=scaled[::-1], background_color=grey, interpolation=config['interpolation']
        )
        steps = [padded, crop]  # of width and height
    else:  # the shorter side
        steps = [dict(resize, size=scaled[0]), crop]
    numbers = [dict(type='maybe_to_tensor'), dict(type='normalize', mean=[*config['mean']], std=[*config['std']])]
    return [*steps, *numbers]


def sidecars(
    config: Dict[str, Any], names: Sequence[str], thresholds: Sequence[float], background: str = 'white'
) -> Dict[str, str]:
    """Content by file name: selected_tags.csv, thresholds.csv, categories.json and preprocess.json.

    They are what the loader of multi-label models of timm in dghs-imgutils reads.

    Args:
        config: Preprocessing.
        names: Class names.
        thresholds: Lowest score of each label.
        background: Colour behind transparent images.
    """
    category = CATEGORY['category']
    rows = [(name, category, f'{threshold:.6g}') for name, threshold in zip(names, thresholds)]
    lowest = f'{sum(thresholds) / len(thresholds):.6g}'  # for who does not take those of the classes
    steps = [dict(type='convert_rgb', force_background=background), *_steps(config)]
    return {
        'selected_tags.csv': _table(['name', 'category', 'best_threshold'], rows),
        'thresholds.csv': _table(['category', 'name', 'threshold'], [(category, CATEGORY['name'], lowest)]),
        'categories.json': json.dumps([CATEGORY], indent=4) + '\n',
        'preprocess.json': json.dumps(dict(test=steps, val=steps), indent=4) + '\n',
    }


def six_lines(config: Dict[str, Any]) -> str:
    """Python code that labels an image with onnxruntime, numpy and Pillow alone."""
    channels, height, width = config['input_size']
    scaled = [math.floor(side / config['crop_pct']) for side in (width, height)]
    how = f'Image.{config["interpolation"].upper()}'
    mode, axes = ('RGB', '.transpose(2, 0, 1)[None]') if channels == 3 else ('L', '[None, None]')
    left, top = (round((side - size) / 2) for side, size in zip(scaled, (width, height)))
    crop = '' if scaled == [width, height] else f'.crop(({left}, {top}, {left + width}, {top + height}))'
    lines, shown = [], 'image'
    if config['crop_mode'] == 'squash':
        shown = f'image.resize(({scaled[0]}, {scaled[1]}), {how}){crop}'
    elif config['crop_mode'] == 'border':
        grey = tuple(round(255 * mean) for mean in config['mean'])
        shown = f'ImageOps.pad(image, ({scaled[0]}, {scaled[1]}), {how}, color={grey}){crop}'
    else:
        lines = [
            f'image = image.resize([int({scaled[0]} * side / min(image.size)) for side in image.size], {how})',
            f'left, top = (round((side - {width}) / 2) for side in image.size)',
            f'image = image.crop((left, top, left + {width}, top + {height}))',
        ]
    return '\n'.join(
        [
            'import csv, numpy as np, onnxruntime as ort',
            'from PIL import Image, ImageOps',
            '',
            f"image = ImageOps.exif_transpose(Image.open('image.jpg')).convert('{mode}')",
            *lines,
            f'pixels = (np.asarray({shown}) / 255 - {list(config["mean"])}) / {list(config["std"])}',
            f"images = {{'input': pixels{axes}.astype(np.float32)}}",
            "scores = ort.InferenceSession('model.onnx').run(['prediction'], images)[0][0]",
            "tags = csv.DictReader(open('selected_tags.csv', encoding='utf-8'))",
            "print({t['name']: float(s) for t, s in zip(tags, scores) if s >= float(t['best_threshold'])})",
        ]
    )


_SIX_LINES = """Label an image with onnxruntime, numpy and Pillow alone:

```python
{code}
```

This is for opaque images of 8 bits a channel.
"""
_README = """---
{header}
---

# {name}, exported

{architecture} with {classes} classes, as files that run without the code of the model. The input is normalised images
(B, {channels}, H, W), {sizes}, any number of them; `preprocess.json` says how they are prepared.

{six_lines}
| output | |
|---|---|
| `prediction` | (B, {classes}), probabilities in the order of `selected_tags.csv`, which has a threshold for each |
| `logits` | (B, {classes}) |
| `embedding` | (B, {embedding}), pooled features |
{neighbors}
Each file was compared with PyTorch:

{proof}

Neighbours of about the same distance may be chosen differently by any two programs in float32, which moves all that
follows. So a file in float32 is judged by the median distance of its logits from those in float64, next to that of
PyTorch in float32.
"""


def readme(config: Dict[str, Any], preprocessing: Dict[str, Any], proof: str) -> str:
    """The README.md of a folder.

    Args:
        config: Content of its `config.json`.
        preprocessing: That of the model.
        proof: Table of the files and their differences.
    """
    cfg, exported = config['pretrained_cfg'], config['exported']
    licence = {key: cfg[key] for key in ('license',) if cfg.get(key)}
    tags = ['image-classification', 'multi-label', 'gkgnet-timm', *(['onnx'] if 'onnx' in exported['formats'] else [])]
    channels, height, width = preprocessing['input_size']
    dynamic = 'sides are multiples of 32 from 64 on' if exported['dynamic_size'] else f'{height} x {width}'
    has_neighbors = 'neighbors' in exported['outputs']
    neighbors = '| `neighbors` | (B, blocks, groups, classes, k), indices of the patches that each class chose |\n'
    return _README.format(
        header=ModelCardData(pipeline_tag='image-classification', tags=tags, **licence).to_yaml(),
        name=config['architecture'],
        architecture=f'`{config["architecture"]}`',
        classes=config['num_classes'],
        channels=channels,
        sizes=dynamic,
        six_lines=_SIX_LINES.format(code=six_lines(preprocessing)) if 'onnx' in exported['formats'] else '',
        embedding=exported['embedding'],
        neighbors=neighbors if has_neighbors else '',
        proof=proof,
    )
