"""The picture of the patch graph: one patch, and lines to its neighbours in every stage."""

import os
from typing import Any, Sequence, Tuple

from PIL import Image

from ..evaluation.figures import create_figure, short_name
from .overlap import dim
from .panels import (
    CAPTION,
    LINE,
    add_legend,
    caption_lines,
    draw_boxes,
    groups_by_box,
    groups_colour,
    padding_sentence,
    panel_size,
    show,
    thumbnail,
)

__all__ = ['draw_star']

GAP, TOP = 0.06, 0.78  # inches
SCALE, NARROWEST = 1.4, 2.3  # of a panel, next to one of a label, and its least width in inches
WHERE = 'The patch is a cell of the first map; later stages show the one that holds it.'


def draw_star(
    image: Image.Image,
    patch: Tuple[int, int],
    centers: Sequence[Sequence[float]],
    patches: Sequence[Any],
    grids: Sequence[Any],
    part: Sequence[float],
    file: str = '',
    model: str = '',
) -> Any:
    """Draw the neighbours of a patch.

    Args:
        image: Upright original.
        patch: Row and column in the map of the first stage.
        centers: Box of the patch in each stage, in pixels of the image.
        patches: `Chosen` ones, its neighbours.
        grids: `Grid`s of the stages, a column each.
        part: Box of what the model saw of the image.
        file: Name of the image, for the caption.
        model: Name of the model, for the caption.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.lines import Line2D  # slow to import

    width, height = (SCALE * side for side in panel_size(image.size))
    width = max(width, NARROWEST)
    figure_width = GAP + len(grids) * (width + GAP)
    names = (short_name(os.path.basename(file), 60), model)
    lines = caption_lines(figure_width, names, WHERE, CAPTION, padding_sentence(patches))
    bottom = 0.12 + LINE * len(lines)
    size = (figure_width, TOP + height + bottom)
    figure = create_figure(figsize=size, dpi=100)
    pale = dim(thumbnail(image))
    groups = max((chosen.group for chosen in patches), default=1)
    for column, (grid, center) in enumerate(zip(grids, centers, strict=True)):
        left = GAP + column * (width + GAP)
        axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
        show(axes, pale, image.size, part)
        axes.set_title(f'stage {grid.stage}\n{grid.rows} x {grid.columns} candidates', fontsize=9, pad=4)
        of_stage = [chosen for chosen in patches if chosen.stage == grid.stage]
        draw_boxes(axes, of_stage, groups)
        x, y = _middle(center)
        for box, by in groups_by_box(of_stage).items():
            x1, y1 = _middle(box)
            axes.plot((x, x1), (y, y1), color=groups_colour(by, groups), lw=0.9)
        axes.plot(x, y, marker='*', ms=11, color='black', mec='white', mew=0.7)
    star = Line2D([], [], marker='*', ls='', ms=9, color='black', label=f'patch {patch[0]},{patch[1]}')
    add_legend(figure, groups, star)
    figure.text(0.08 / size[0], 0.06 / size[1], '\n'.join(lines), fontsize=8, va='bottom')
    return figure


def _middle(box: Sequence[float]) -> Tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
