"""Panels of pictures: the dimmed image with patches on it, in pixels of the original."""

from collections import defaultdict
from typing import Any, Collection, Dict, List, Sequence, Set, Tuple

from PIL import Image

from ..evaluation.figures import COLOURS

__all__ = [
    'BOTH',
    'CAPTION',
    'LONGEST',
    'draw_boxes',
    'group_colour',
    'groups_by_box',
    'groups_colour',
    'legend',
    'panel_size',
    'show',
    'thumbnail',
]

BOTH = '#CC79A7'  # of patches that several groups chose
GROUPS = (*COLOURS[:3], *COLOURS[4:])
CAPTION = 'Neighbours are where a node looked, which is no proof that they caused its score.'
LONGEST = 1.9  # inches of the longer side of a panel
NARROWEST = 0.8
PIXELS = 640  # of the longer side of an image in a panel, enough for print


def thumbnail(image: Image.Image) -> Image.Image:
    """An image of as many pixels as a panel needs."""
    factor = min(1.0, PIXELS / max(image.size))
    return image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)


def panel_size(size: Tuple[int, int]) -> Tuple[float, float]:
    """Width and height in inches of a panel for an image of a width and height."""
    return tuple(max(NARROWEST, LONGEST * side / max(size)) for side in size)


def group_colour(group: int) -> str:
    """Colour of a channel group, from 1."""
    return GROUPS[(group - 1) % len(GROUPS)]


def groups_colour(groups: Collection[int]) -> str:
    """Colour of what was chosen by these channel groups."""
    return group_colour(*groups) if len(groups) == 1 else BOTH


def show(axes: Any, image: Image.Image, size: Tuple[int, int]) -> None:
    """Show an image on axes whose units are pixels of the original of a width and height."""
    axes.imshow(image, extent=(0, size[0], size[1], 0), interpolation='lanczos')
    axes.set_xlim(0, size[0])
    axes.set_ylim(size[1], 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
        spine.set_color('#888888')


def groups_by_box(patches: Sequence[Any]) -> Dict[Tuple[float, ...], Set[int]]:
    """Which channel groups chose each box, leaving out those in the padding of an image."""
    groups: Dict[Tuple[float, ...], Set[int]] = defaultdict(set)
    for chosen in patches:
        x0, y0, x1, y1 = chosen.box
        if x0 < x1 and y0 < y1:
            groups[x0, y0, x1, y1].add(chosen.group)
    return groups


def draw_boxes(axes: Any, patches: Sequence[Any]) -> None:
    """Draw `Chosen` patches of one stage: a colour for each group, another where several agree, paler by rank."""
    from matplotlib.patches import Rectangle  # slow to import

    groups = groups_by_box(patches)
    ranks: Dict[Tuple[float, ...], List[int]] = defaultdict(list)
    for chosen in patches:
        ranks[tuple(chosen.box)].append(chosen.rank)
    last = max((chosen.rank for chosen in patches), default=1)
    for box in sorted(groups, key=lambda box: -min(ranks[box])):  # the nearest on top
        x0, y0, x1, y1 = box
        colour = groups_colour(groups[box])
        strength = 1 - (min(ranks[box]) - 1) / last
        place = dict(xy=(x0, y0), width=x1 - x0, height=y1 - y0)
        axes.add_patch(Rectangle(**place, facecolor=colour, alpha=0.15 + 0.5 * strength, linewidth=0))
        axes.add_patch(Rectangle(**place, fill=False, edgecolor=colour, alpha=0.4 + 0.6 * strength, linewidth=0.9))


def legend(figure: Any, groups: int, top: float, *more: Any) -> None:
    """Say which colour is of which group, at a height of the figure from 0 to 1."""
    from matplotlib.patches import Patch

    handles = [Patch(color=group_colour(group), alpha=0.65, label=f'group {group}') for group in range(1, groups + 1)]
    handles += [Patch(color=BOTH, alpha=0.65, label='both groups' if groups == 2 else 'several')] * (groups > 1)
    figure.legend(
        handles=[*handles, *more],
        loc='upper left',
        bbox_to_anchor=(0.005, top),
        ncols=len(handles) + len(more),
        fontsize=8,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )
