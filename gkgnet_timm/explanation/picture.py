"""The picture of the label graph: a row for each label, a column for each stage."""

import os
from typing import Any, Sequence, Tuple

import numpy as np
from PIL import Image

from ..evaluation.figures import create_figure, short_name
from .overlap import dim, overlap
from .panels import (
    CAPTION,
    LINE,
    add_legend,
    caption_lines,
    draw_boxes,
    padding_sentence,
    panel_size,
    shading_sentence,
    show,
    thumbnail,
)

__all__ = ['draw_labels']

LEFT, GAP, TOP, BAR = 1.5, 0.06, 0.78, 0.55  # inches
OPACITY = 0.8  # of the overlap on the image


def draw_labels(
    image: Image.Image,
    labels: Sequence[Any],
    patches: Sequence[Any],
    grids: Sequence[Any],
    part: Sequence[float],
    file: str = '',
    model: str = '',
) -> Any:
    """Draw where labels looked.

    Args:
        image: Upright original.
        labels: `Label`s, a row each.
        patches: `Chosen` ones, their boxes in pixels of the image.
        grids: `Grid`s of the stages, a column each.
        part: Box of what the model saw of the image.
        file: Name of the image, for the caption.
        model: Name of the model, for the caption.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.cm import ScalarMappable  # slow to import
    from matplotlib.colors import Normalize

    width, height = panel_size(image.size)
    columns, rows = len(grids) + 2, len(labels)
    small = thumbnail(image)
    pale = dim(small)
    groups = max((chosen.group for chosen in patches), default=1)
    by_label = {label.label: [chosen for chosen in patches if chosen.label == label.label] for label in labels}
    counts = {name: overlap(chosen, image.size, small.size) for name, chosen in by_label.items()}
    heat = ScalarMappable(Normalize(0, max(1, *(count.max() for count in counts.values()))), 'BuPu')
    figure_width = LEFT + columns * (width + GAP) + BAR
    lines = caption_lines(
        figure_width,
        (short_name(os.path.basename(file), 60), model),
        CAPTION,
        shading_sentence(patches, width / image.width),
        f'Overlap: how many pairs of a stage and a group chose a place, of {len(grids) * groups}.',
        padding_sentence(patches),
        '' if np.allclose(part, (0, 0, *image.size), atol=0.5) else 'Dashed: what the model saw.',
    )
    bottom = 0.12 + LINE * len(lines)
    size = (figure_width, TOP + rows * (height + GAP) + bottom)
    figure = create_figure(figsize=size, dpi=100)

    def axes_at(row: int, column: int, wide: float = width) -> Any:
        left, low = LEFT + column * (width + GAP), size[1] - TOP - (row + 1) * (height + GAP)
        return figure.add_axes((left / size[0], low / size[1], wide / size[0], height / size[1]))

    for row, label in enumerate(labels):
        panels = [axes_at(row, column) for column in range(columns)]
        sign = '≥' if label.score >= label.threshold else '<'
        text = f'{short_name(label.label, 16)}\n{label.score:.2f} {sign} {label.threshold:.2f}'
        panels[0].annotate(
            text, (0, 0.5), (-6, 0), 'axes fraction', 'offset points', ha='right', va='center', fontsize=9
        )
        show(panels[0], small, image.size, part)
        for panel, grid in zip(panels[1:], grids):
            show(panel, pale, image.size, part)
            draw_boxes(panel, [chosen for chosen in by_label[label.label] if chosen.stage == grid.stage], groups)
        show(panels[-1], _blend(pale, counts[label.label], heat), image.size, part)
        if row == 0:
            for panel, title in zip(panels, ('image', *map(_title, grids), 'overlap')):
                panel.set_title(title, fontsize=9, pad=4)
    highest = int(heat.norm.vmax)
    bar = figure.colorbar(heat, cax=axes_at(0, columns, 0.1), ticks=range(0, highest + 1, max(1, highest // 4)))
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_linewidth(0.5)
    add_legend(figure, groups)
    figure.text(0.08 / size[0], 0.06 / size[1], '\n'.join(lines), fontsize=8, va='bottom')
    return figure


def _blend(pale: Image.Image, counts: np.ndarray, heat: Any) -> Image.Image:
    """Colours of counts (H, W) on an image, which stays as it is where nothing was counted."""
    # in one image: each format has its own way to lay two transparent ones on each other
    colours = heat.to_rgba(counts)[..., :3] * 255
    mixed = OPACITY * colours + (1 - OPACITY) * np.asarray(pale)
    return Image.fromarray(np.where(counts[..., None] > 0, mixed, pale).round().astype(np.uint8))


def _title(grid: Any) -> str:
    cell: Tuple[float, ...] = tuple(dict.fromkeys(grid.cell))
    return f'stage {grid.stage}\n{" x ".join(f"{side:g}" for side in cell)} px cells'
