"""Panels of pictures: the dimmed image with patches on it, in pixels of the original."""

import textwrap
from collections import defaultdict
from typing import Any, Collection, Dict, List, Sequence, Set, Tuple

import numpy as np
from PIL import Image

from ..evaluation.figures import COLOURS

__all__ = ['CAPTION', 'LINE', 'add_legend', 'caption_lines', 'draw_boxes', 'groups_by_box', 'groups_colour']
__all__ += ['padding_sentence', 'panel_size', 'shading_sentence', 'show', 'thumbnail']

BOTH = '#CC79A7'  # of patches that several groups chose
GROUPS = (*COLOURS[:3], *COLOURS[4:])
CAPTION = 'Neighbours are where a node looked, which is no proof that they caused its score.'
LONGEST = 1.9  # inches of the longer side of a panel
NARROWEST = 1.15, 0.8  # of its width, for its title, and of its height
PIXELS = 640  # of the longer side of an image in a panel, enough for print
OUTLINED = 0.05  # inches of the smallest cell with an outline, which would hide a smaller one
LETTER, LINE = 0.066, 0.14  # inches of a letter of the caption, on average, and of a line of it


def thumbnail(image: Image.Image) -> Image.Image:
    """An image of as many pixels as a panel needs."""
    factor = min(1.0, PIXELS / max(image.size))
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)


def panel_size(size: Tuple[int, int]) -> Tuple[float, float]:
    """Width and height in inches of a panel for an image of a width and height."""
    return tuple(max(low, LONGEST * side / max(size)) for low, side in zip(NARROWEST, size))


def groups_colour(groups: Collection[int], number: int) -> Any:
    """Colour of what was chosen by these of a number of channel groups, from 1."""
    if len(groups) > 1:
        return BOTH
    (group,) = groups
    if number <= len(GROUPS):
        return GROUPS[group - 1]
    from matplotlib import colormaps  # slow to import

    return colormaps['viridis']((group - 1) / (number - 1))


def show(axes: Any, image: Image.Image, size: Tuple[int, int], part: Sequence[float]) -> None:
    """Show an image on axes whose units are pixels of the original of a width and height, and a dashed line around the
    part that the model saw, if that is not all."""
    from matplotlib.patches import Rectangle  # slow to import

    axes.imshow(image, extent=(0, size[0], size[1], 0), interpolation='lanczos')
    axes.set_xlim(0, size[0])
    axes.set_ylim(size[1], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
        spine.set_color('#888888')
    x0, y0, x1, y1 = part
    if not np.allclose(part, (0, 0, *size), atol=0.5):
        style = dict(fill=False, edgecolor='black', linestyle='--', linewidth=0.8, gid='part')
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **style))


def in_padding(chosen: Any) -> bool:
    """Whether a `Chosen` patch is none of the image."""
    x0, y0, x1, y1 = chosen.box
    return x0 == x1 or y0 == y1


def groups_by_box(patches: Sequence[Any]) -> Dict[Tuple[float, ...], Set[int]]:
    """Which channel groups chose each box, leaving out those in the padding of an image."""
    groups: Dict[Tuple[float, ...], Set[int]] = defaultdict(set)
    for chosen in patches:
        if not in_padding(chosen):
            groups[tuple(chosen.box)].add(chosen.group)
    return groups


def draw_boxes(axes: Any, patches: Sequence[Any], number: int) -> None:
    """Draw `Chosen` patches of one stage: a colour for each of a number of groups, another where several agree, paler
    by rank. Cells that an outline would hide have none and are not pale."""
    from matplotlib.patches import Rectangle

    groups = groups_by_box(patches)
    ranks: Dict[Tuple[float, ...], List[int]] = defaultdict(list)
    for chosen in patches:
        ranks[tuple(chosen.box)].append(chosen.rank)
    last = max((chosen.rank for chosen in patches), default=1)
    inches = axes.get_window_extent().width / axes.figure.dpi / abs(np.diff(axes.get_xlim()).item())  # of a pixel
    for box in sorted(groups, key=lambda box: -min(ranks[box])):  # the nearest on top
        x0, y0, x1, y1 = box
        colour = groups_colour(groups[box], number)
        strength = 1 - (min(ranks[box]) - 1) / last
        place = dict(xy=(x0, y0), width=x1 - x0, height=y1 - y0, gid='cell')
        if (x1 - x0) * inches < OUTLINED:
            axes.add_patch(Rectangle(**place, facecolor=colour, linewidth=0))
            continue
        axes.add_patch(Rectangle(**place, facecolor=colour, alpha=0.15 + 0.5 * strength, linewidth=0))
        place.update(gid='outline')
        axes.add_patch(Rectangle(**place, fill=False, edgecolor=colour, alpha=0.4 + 0.6 * strength, linewidth=0.9))


def add_legend(figure: Any, number: int, *more: Any) -> None:
    """Say at the top which colour is of which channel group."""
    from matplotlib.patches import Patch

    handles = [
        Patch(color=groups_colour([group], number), alpha=0.65, label=f'group {group}')
        for group in range(1, number + 1)
    ]
    handles += [Patch(color=BOTH, alpha=0.65, label='both groups' if number == 2 else 'several')] * (number > 1)
    figure.legend(
        handles=[*handles, *more],
        loc='upper left',
        bbox_to_anchor=(0.0, 1.0),
        ncols=max(2, int(figure.get_figwidth() / 1.1)),
        fontsize=8,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )


def caption_lines(width: float, head: Sequence[str], *sentences: str) -> List[str]:
    """Wrap what stands below a figure of a width in inches: names, then sentences."""
    most = int((width - 0.2) / LETTER)
    return [
        *textwrap.wrap(' · '.join(filter(None, head)), most),
        *textwrap.wrap(' '.join(filter(None, sentences)), most),
    ]


def shading_sentence(patches: Sequence[Any], inches: float) -> str:
    """Say what is dark, of patches on an image whose pixels have this size."""
    shown = [chosen.box for chosen in patches if not in_padding(chosen)]
    is_small = any((x1 - x0) * inches < OUTLINED for x0, _, x1, _ in shown)
    return f'Nearest neighbours are darkest{", the smallest cells all alike" if is_small else ""}.'


def padding_sentence(patches: Sequence[Any]) -> str:
    """Say how many patches are not shown, '' if all are."""
    hidden = sum(map(in_padding, patches))
    return f'{hidden} of {len(patches)} choices are in the padding and not shown.' if hidden else ''
