"""The picture of the label graph: a row for each label, a column for each stage."""

import os
from typing import Any, Sequence, Tuple

import numpy as np
from PIL import Image

from ..evaluation.figures import create_figure, short_name
from .overlap import dim, overlap
from .panels import CAPTION, draw_boxes, legend, panel_size, show, thumbnail

__all__ = ['draw_labels']

LEFT, GAP, TOP, BOTTOM, BAR = 1.45, 0.06, 0.62, 0.42, 0.55  # inches


def draw_labels(
    image: Image.Image,
    labels: Sequence[Any],
    patches: Sequence[Any],
    grids: Sequence[Any],
    file: str = '',
    model: str = '',
) -> Any:
    """Draw where labels looked.

    Args:
        image: Upright original.
        labels: `Label`s, a row each.
        patches: `Chosen` ones, their boxes in pixels of the image.
        grids: `Grid`s of the stages, a column each.
        file: Name of the image, for the caption.
        model: Name of the model, for the caption.

    Returns:
        A matplotlib figure.
    """
    width, height = panel_size(image.size)
    columns, rows = len(grids) + 2, len(labels)
    size = (LEFT + columns * (width + GAP) + BAR, TOP + rows * (height + GAP) + BOTTOM)
    figure = create_figure(figsize=size, dpi=100)
    small = thumbnail(image)
    pale = dim(small)
    groups = max((chosen.group for chosen in patches), default=1)

    def axes_at(row: int, column: float, wide: float = width) -> Any:
        left, bottom = LEFT + column * (width + GAP), size[1] - TOP - (row + 1) * (height + GAP)
        return figure.add_axes((left / size[0], bottom / size[1], wide / size[0], height / size[1]))

    heat = None
    for row, label in enumerate(labels):
        chosen = [patch for patch in patches if patch.label == label.label]
        axes = axes_at(row, 0)
        show(axes, small, image.size)
        sign = '≥' if label.score >= label.threshold else '<'
        text = f'{short_name(label.label, 20)}\n{label.score:.2f} {sign} {label.threshold:.2f}'
        axes.annotate(text, (0, 0.5), (-6, 0), 'axes fraction', 'offset points', ha='right', va='center', fontsize=9)
        panels = [axes]
        for column, grid in enumerate(grids, 1):
            panels.append(axes_at(row, column))
            show(panels[-1], pale, image.size)
            draw_boxes(panels[-1], [patch for patch in chosen if patch.stage == grid.stage])
        panels.append(axes_at(row, len(grids) + 1))
        show(panels[-1], pale, image.size)
        counts = overlap(chosen, image.size, small.size)
        heat = panels[-1].imshow(
            np.ma.masked_equal(counts, 0),
            extent=(0, image.width, image.height, 0),
            cmap='viridis',
            vmin=0,
            vmax=len(grids) * groups,
            alpha=0.75,
            interpolation='nearest',
        )
        if row == 0:
            titles = ['image', *(_title(grid) for grid in grids), 'overlap']
            for panel, title in zip(panels, titles):
                panel.set_title(title, fontsize=9, pad=4)
    bar = figure.colorbar(heat, cax=axes_at(0, columns, 0.1), ticks=range(0, len(grids) * groups + 1, groups))
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_linewidth(0.5)
    legend(figure, groups, 1 - 0.02 / size[1])
    overlapping = f'Overlap: how many of {len(grids)} stages x {groups} groups chose a place.'
    head = ' · '.join(filter(None, (short_name(os.path.basename(file), 60), model)))
    figure.text(
        0.08 / size[0],
        0.06 / size[1],
        f'{head}\n{CAPTION} Nearest neighbours are darkest. {overlapping}',
        fontsize=8,
        va='bottom',
    )
    return figure


def _title(grid: Any) -> str:
    cell: Tuple[float, ...] = tuple(dict.fromkeys(grid.cell))
    return f'stage {grid.stage}: cells of {" x ".join(f"{side:g}" for side in cell)} px'
