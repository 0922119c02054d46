"""Plots of an evaluation: precision over recall, AP by class, and co-occurrence."""

from pathlib import Path
from typing import Any, List, Optional, Sequence, Union

import numpy as np

from ..metrics import Array, Threshold, average_precision, chance_by_class, check_threshold, ratio
from .class_report import check_rows
from .curves import confusion, precision_at
from .figures import BLUE, ORANGE, class_styles, create_figure, save_figure, short_name

__all__ = ['draw_plots']

MAX_NAMES = 200  # bars with a name; of more classes only every n-th gets one
MAX_CELLS = 100  # classes in the matrix
CELL = 0.18  # inches of a cell of the matrix, and of a bar
MAX_STYLES = 20  # curves with a colour of their own
MAX_CURVES = 100
ENDS = 5  # best and worst curves that the legend names if they have no colour of their own


def _in_legend(ap: float, name: str) -> str:
    figure = f'{ap:5.1f}'.replace(' ', '\N{FIGURE SPACE}')  # as wide as a digit
    return f'{figure}  {name}'


def _draw_curves(axes: Any, recalls: np.ndarray, curves: np.ndarray, ap: np.ndarray, names: List[str]) -> None:
    """Draw the curves (L, R) of classes, best AP first, or their quantiles if there are too many to follow one."""
    if len(curves) > MAX_CURVES:
        for low, high, alpha in ((5, 95, 0.2), (25, 75, 0.35)):
            edges = np.percentile(curves, (low, high), axis=0)
            label = f'{high - low} % of the classes'
            axes.fill_between(recalls, *edges, color=BLUE, alpha=alpha, lw=0, label=label)
        axes.plot(recalls, np.median(curves, axis=0), color=BLUE, lw=1.5, label='median class')
        return
    labels = [_in_legend(value, name) for value, name in zip(ap, names)]
    if len(curves) <= MAX_STYLES:
        for curve, label, (colour, style) in zip(curves, labels, class_styles(len(curves))):
            axes.plot(recalls, curve, color=colour, ls=style, lw=1.3, label=label)
        return
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap(colormaps['viridis'](np.linspace(0, 0.85, 256)))  # without its yellow, pale on white
    scale = ScalarMappable(Normalize(0, 100), colours)
    for i, (curve, label) in enumerate(zip(curves, labels)):
        is_named = i < ENDS or i >= len(curves) - ENDS
        axes.plot(recalls, curve, color=scale.to_rgba(ap[i]), lw=1, label=label if is_named else None)
    axes.figure.colorbar(scale, cax=axes.inset_axes([1.02, 0, 0.03, 1]), label='AP of the class in %')


def _draw_precision_recall(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str]) -> None:
    recalls = np.linspace(0, 1, 201)  # as fine as a picture shows; there may be N thresholds
    present = np.flatnonzero((targets > 0).any(axis=0))
    ap = 100 * average_precision(scores, targets)
    order = present[np.argsort(-ap[present], kind='stable')]
    if len(order):
        curves = np.stack([precision_at(scores[:, i], targets[:, i], recalls) for i in order])
        _draw_curves(axes, recalls, curves, ap[order], [names[i] for i in order])
        if len(order) > 1:
            mean = _in_legend(ap[order].mean(), f'mean of {len(order)} classes')
            axes.plot(recalls, curves.mean(axis=0), 'k', lw=2.5, label=mean)
            known = targets >= 0
            of_all = 100 * average_precision(scores[known][:, None], targets[known][:, None])[0]
            pooled = _in_legend(of_all, 'all classes pooled')
            axes.plot(recalls, precision_at(scores, targets, recalls), 'k', ls=(0, (1, 1)), lw=2.5, label=pooled)
        beside = 1.16 if axes.child_axes else 1.01  # of the colours' scale
        axes.legend(loc='upper left', bbox_to_anchor=(beside, 1), fontsize=8, title='AP in %', alignment='left')
    axes.set_title(f'{len(scores)} images, {len(present)} of {len(names)} classes have positives')
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _draw_ap(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str]) -> None:
    ap, positives = 100 * average_precision(scores, targets), (targets > 0).sum(axis=0)
    order = np.lexsort((-positives, -ap, positives == 0))
    places = np.arange(len(ap))
    height = 0.8 if len(ap) <= MAX_NAMES else 1.0  # thinner bars have no gaps, which would make a pattern
    axes.barh(places, ap[order], height, color=BLUE)
    chance = np.where(positives, 100 * chance_by_class(targets), np.nan)[order]
    axes.vlines(chance, places - height / 2, places + height / 2, color=ORANGE, lw=2, label='chance')
    ticks = np.arange(0, len(ap), -(-len(ap) // MAX_NAMES))
    figures = [f'{ap[i]:.1f}' if positives[i] else '–' for i in order[ticks]]
    labels = [f'{names[i]} ({positives[i]})  {figure}' for i, figure in zip(order[ticks], figures)]
    axes.set_yticks(ticks, labels, fontsize=8)
    mean = ratio(ap.sum(), (positives > 0).sum())
    axes.axvline(mean, color='k', ls='--', lw=1, label='mean of the classes with positives')
    axes.set_title(f'mAP {ap.mean():.2f}, of classes with positives {mean:.2f}')
    axes.set(xlabel='AP in % (positives in brackets)', xlim=(0, 100), ylim=(len(ap) - 0.4, -0.6))
    axes.legend(loc='upper left', bbox_to_anchor=(1.01, 1), fontsize=8)


def _draw_cooccurrence(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str], threshold: Any) -> None:
    from matplotlib.colors import PowerNorm

    positives = (targets > 0).sum(axis=0)
    kept = np.sort(np.argsort(-positives, kind='stable')[:MAX_CELLS])
    matrix = confusion((scores >= threshold.astype(scores.dtype))[:, kept], targets[:, kept])
    diagonal = np.eye(*matrix.shape, k=-1, dtype=bool)
    axes.set_facecolor('0.9')  # shows in cells of nan
    scales = (('Oranges', '% predicted although absent', ~diagonal), ('Blues', '% missed', diagonal))
    for number, (colours, label, cells) in enumerate(scales):
        part = np.where(cells, matrix, np.nan)
        top = np.nanmax(part, initial=0) or 1
        image = axes.imshow(part, colours, PowerNorm(0.5, 0, top))  # most cells are far below the largest
        axes.apply_aspect()  # now its size is known
        side = axes.figure.dpi / axes.bbox.width  # an inch, as a share of the matrix
        beside = axes.inset_axes([1 + (0.15 + 0.9 * number) * side, 0, 0.15 * side, 1])
        axes.figure.colorbar(image, cax=beside, label=label)
        for row, column in np.argwhere(part >= 0.5) if len(kept) <= 20 else ():
            style = dict(ha='center', va='center', fontsize=6, color='w' if part[row, column] > 0.4 * top else 'k')
            axes.text(column, row, f'{part[row, column]:.0f}', **style)
    rows = [f'any image ({len(scores)})', *(f'{names[i]} ({positives[i]})' for i in kept)]
    axes.set_yticks(np.arange(len(rows)), rows, fontsize=7)
    axes.set_xticks(np.arange(len(kept)), [names[i] for i in kept], fontsize=7, rotation=90)
    at = 'the thresholds of the classes' if threshold.ndim else f'threshold {threshold:g}'
    axes.set(xlabel=f'predicted label ({len(kept)} of {len(names)})', ylabel='label (images that have it)')
    axes.set_title(f'Wrong (orange) and missed (blue) at {at}\nin images that have the label of the row', fontsize=9)


def draw_plots(
    folder: Union[str, Path],
    scores: Array,
    targets: Array,
    class_names: Sequence[str],
    threshold: Threshold = 0.5,
    ranking: Optional[Array] = None,
) -> None:
    """Draw precision_recall.png, ap_by_class.png and cooccurrence.png.

    Row i and column j of the co-occurrence show in what percentage of the images with label i and without label j the
    model predicts j. The first row is over all images without j: if row i is far above it, label i misleads the model
    to j. The diagonal shows in what percentage of the images with label i the model misses it. Unknown labels do not
    count in any plot. Of more than 100 classes, it shows the 100 with most positives.

    The folder is created if necessary. The other arguments are those of `class_report`.
    """
    scores, targets = check_rows(scores, targets, class_names)
    ranking = scores if ranking is None else check_rows(ranking, targets, class_names)[0]
    threshold = check_threshold(threshold, scores.shape[1])
    bars, cells = (CELL * min(len(class_names), most) for most in (MAX_NAMES, MAX_CELLS))  # inches
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, draw, size, numbers, arguments in (
        ('precision_recall', _draw_precision_recall, (7, 6), ranking, ()),
        ('ap_by_class', _draw_ap, (7, 1 + bars), ranking, ()),
        ('cooccurrence', _draw_cooccurrence, (6 + cells, 2.5 + cells), scores, (threshold,)),
    ):
        figure = create_figure(figsize=size)
        draw(figure.subplots(), numbers, targets, [short_name(name) for name in class_names], *arguments)
        save_figure(figure, Path(folder) / f'{name}.png', dpi=100, bbox_inches='tight')
