"""Pictures of what a model is trained on: a batch after augmentation, with its labels."""

import math
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import torch

from ..evaluation.figures import create_figure, save_figure, short_name

__all__ = ['draw_batch', 'label_lines']

MOST_PICTURES = 16
MOST_LABELS = 4  # lines below a picture


def label_lines(target: Sequence[float], class_names: List[str]) -> List[str]:
    """Name the labels of an image: with their share if it is mixed, with a question mark if they are unknown."""
    labels = [(value, name) for value, name in zip(target, class_names) if value > 0]
    lines = [
        short_name(name) if value == 1 else f'{short_name(name)} {value:.2f}'
        for value, name in sorted(labels, key=lambda label: -label[0])
    ]
    unknown = [f'{short_name(name)} ?' for value, name in zip(target, class_names) if value < 0]
    lines += unknown if len(unknown) <= 2 else [f'{len(unknown)} unknown']
    if len(lines) > MOST_LABELS:
        lines[MOST_LABELS - 1 :] = [f'{len(lines) - MOST_LABELS + 1} more']
    return lines or ['no label']


def draw_batch(
    path: Path, loader: Any, class_names: List[str], data_config: Dict[str, Any], keep: bool = False
) -> None:
    """Draw the first batch of a training loader as the model sees it, up to 16 images with their labels, and say so.

    Args:
        path: Picture to write.
        loader: Training loader, see `create_train_loader`. Drawing it uses up random numbers: seed the epoch anew.
        class_names: L names.
        data_config: Preprocessing that is undone: `mean` and `std`.
        keep: Leave a picture that is already there as it is.
    """
    if keep and path.exists():
        return
    images, targets = next(iter(loader))
    readable = ~targets.isnan().any(dim=1)
    images, targets = images[readable][:MOST_PICTURES].float().cpu(), targets[readable][:MOST_PICTURES].cpu()
    mean, std = (torch.tensor(data_config[name]).view(-1, 1, 1) for name in ('mean', 'std'))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()  # (B, H, W, C)
    columns = max(1, math.ceil(math.sqrt(len(pixels))))
    rows = max(1, math.ceil(len(pixels) / columns))
    figure = create_figure(figsize=(2.4 * columns, 3 * rows), layout='constrained')
    for axes in np.ravel(figure.subplots(rows, columns, squeeze=False)):
        axes.axis('off')
    for axes, image, target in zip(figure.axes, pixels, targets.tolist()):
        axes.imshow(image if image.shape[2] == 3 else image[..., 0], cmap='gray', vmin=0, vmax=1)
        axes.set_title('\n'.join(label_lines(target, class_names)), fontsize=8)
    save_figure(figure, path, dpi=100)
    print(f'Images of training with their labels: {path}')
