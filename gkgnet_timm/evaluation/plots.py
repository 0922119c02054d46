"""Plots of an evaluation: precision over recall, AP by class, and co-occurrence."""

from pathlib import Path
from typing import Any, List, Optional, Sequence, Union

import numpy as np

from ..metrics import Array, Threshold, average_precision, chance_by_class
from ..metrics.figures import by_class, check_threshold, ratio
from .class_report import check_rows
from .curves import confusion_counts, confusion_shares, most_confused, most_frequent, precision_at
from .figures import BLUE, ORANGE, class_styles, create_figure, save_figure, short_name

__all__ = ['draw_plots']

MAX_BARS = 100
MAX_CELLS = 40  # classes in the matrix
CELL = 0.18  # inches of a bar
MAX_CURVES = 10  # classes that all have a curve of their own
ENDS = 3  # best and worst classes that have one, of more
RECALLS = np.linspace(0.005, 1, 200)  # as fine as a picture shows; there may be N thresholds
WIDE, NARROW = (10, 90), (25, 75)  # percentiles of bands


def _in_legend(ap: float, name: str) -> str:
    figure = f'{ap:5.1f}'.replace(' ', '\N{FIGURE SPACE}')  # as wide as a digit
    return f'{figure}  {name}'


def _draw_curves(axes: Any, curves: np.ndarray, ap: np.ndarray, names: List[str]) -> None:
    """Draw the curves (L, R) of classes, best AP first; of many classes bands, and the best and worst."""
    shown = range(len(curves))
    if len(curves) > MAX_CURVES:
        shown = [*shown[:ENDS], *shown[-ENDS:]]
        for (low, high), alpha in ((WIDE, 0.12), (NARROW, 0.16)):
            edges = np.percentile(curves, (low, high), axis=0)
            axes.fill_between(RECALLS, *edges, color='k', alpha=alpha, lw=0, label=f'{high - low} % of the classes')
    for i, (colour, style) in zip(shown, class_styles(len(shown))):
        axes.plot(RECALLS, curves[i], color=colour, ls=style, lw=1.5, label=_in_legend(ap[i], names[i]))


def _draw_precision_recall(
    axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str], ap: np.ndarray
) -> None:
    present = np.flatnonzero(targets.max(axis=0) > 0)
    order = present[np.argsort(-ap[present], kind='stable')]
    if len(order):
        curves = np.zeros((len(names), len(RECALLS)))
        for curve, (score, target) in zip(curves, by_class(scores, targets)):
            if target.max() > 0:
                curve[:] = precision_at(score, target, RECALLS)[0]
        curves = curves[order]
        _draw_curves(axes, curves, ap[order], [names[i] for i in order])
        if len(order) > 1:
            mean = _in_legend(ap[order].mean(), f'mean of {len(order)} classes')
            axes.plot(RECALLS, curves.mean(axis=0), 'k', lw=2.5, label=mean)
            curve, of_all = precision_at(scores, targets, RECALLS)
            pooled = _in_legend(100 * of_all, 'all classes pooled')
            axes.plot(RECALLS, curve, 'k', ls=(0, (1, 1)), lw=2.5, label=pooled)
        ends = f'\n{ENDS} best, {ENDS} worst of {len(order)}' if len(order) > MAX_CURVES else ''
        style = dict(fontsize=8, title=f'AP in %{ends}', title_fontsize=9, alignment='left')
        axes.legend(loc='upper left', bbox_to_anchor=(1.01, 1), borderaxespad=0, **style)
    axes.set_title(f'{len(scores)} images, {len(present)} of {len(names)} classes have positives')
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _draw_ap(axes: Any, targets: np.ndarray, names: List[str], ap: np.ndarray) -> None:
    positives = (targets > 0).sum(axis=0)
    order = np.lexsort((-positives, -ap, positives == 0))
    places, gap = np.arange(len(ap)), len(ap) - MAX_BARS
    if gap > 0:
        half = MAX_BARS // 2
        order = np.append(order[:half], order[-half:])
        places = np.append(places[:half], half + 1 + places[:half])
        axes.text(50, half, f'{gap} classes between', ha='center', va='center', fontsize=8, style='italic')
    axes.barh(places, ap[order], 0.8, color=BLUE)
    chance = np.where(positives, 100 * chance_by_class(targets), np.nan)[order]
    axes.vlines(chance, places - 0.4, places + 0.4, color=ORANGE, lw=2, label='chance')
    figures = [f'{ap[i]:.1f}' if positives[i] else '–' for i in order]
    labels = [f'{names[i]} ({positives[i]})  {figure}' for i, figure in zip(order, figures)]
    axes.set_yticks(places, labels, fontsize=8)
    mean = ratio(ap.sum(), (positives > 0).sum())
    axes.axvline(mean, color='k', ls='--', lw=1, label='mean of the classes with positives')
    axes.set_title(f'mAP {ap.mean():.2f}, of classes with positives {mean:.2f}')
    axes.set(xlabel='AP in % (positives in brackets)', xlim=(0, 100), ylim=(places[-1] + 0.6, -0.6))
    above = 1 + 0.35 / (axes.figure.get_figheight() * axes.get_position().height)  # inches, clear of the title
    axes.legend(loc='lower center', bbox_to_anchor=(0.5, above), borderaxespad=0, ncols=2, fontsize=8, frameon=False)


def _draw_cooccurrence(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str], threshold: Any) -> None:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    positives = (targets > 0).sum(axis=0)
    looked = most_frequent(targets)
    counts, support = confusion_counts((scores >= threshold.astype(scores.dtype))[:, looked], targets[:, looked])
    shown = most_confused(counts, support, MAX_CELLS) if len(names) > MAX_CELLS else np.arange(len(names))
    matrix = confusion_shares(counts, support)[np.ix_(np.append(0, 1 + shown), shown)]
    kept = looked[shown]
    diagonal = np.eye(*matrix.shape, k=-1, dtype=bool)
    axes.set_facecolor('0.9')  # shows in cells of nan
    scales = ((ORANGE, '% predicted although absent', ~diagonal), (BLUE, '% missed (diagonal)', diagonal))
    for number, (colour, label, cells) in enumerate(scales):
        part = np.where(cells, matrix, np.nan)
        top = np.nanmax(part, initial=0) or 1
        colours = LinearSegmentedColormap.from_list(label, ['white', colour])
        image = axes.imshow(part, colours, PowerNorm(0.5, 0, top))  # most cells are far below the largest
        axes.apply_aspect()  # now its size is known
        side = axes.figure.dpi / axes.bbox.width  # an inch, as a share of the matrix
        beside = axes.inset_axes([1 + 0.15 * side, 0.53 * (1 - number), 0.15 * side, 0.47])
        axes.figure.colorbar(image, cax=beside, label=label)
        for row, column in np.argwhere(part >= 0.5) if len(kept) <= 20 else ():
            style = dict(ha='center', va='center', fontsize=6, color='w' if part[row, column] > 0.4 * top else 'k')
            axes.text(column, row, f'{part[row, column]:.0f}', **style)
    rows = [f'any image ({len(scores)})', *(f'{names[i]} ({positives[i]})' for i in kept)]
    axes.set_yticks(np.arange(len(rows)), rows, fontsize=7)
    axes.set_xticks(np.arange(len(kept)), [names[i] for i in kept], fontsize=7, rotation=90)
    for edges, lines in ((len(kept), axes.axvline), (len(rows), axes.axhline)):
        for edge in range(1, edges):
            lines(edge - 0.5, color='0.85', lw=0.4)
    at = 'the thresholds of the classes' if threshold.ndim else f'threshold {threshold:g}'
    axes.set(xlabel='predicted label', ylabel='label (images that have it)')
    part = f'\nthe {len(kept)} of {len(names)} classes that are confused most' if len(kept) < len(names) else ''
    part += f', of the {len(looked)} with most images' if len(looked) < len(names) else ''
    title = (
        f'Wrong (orange) and missed (blue) at {at}\nin images that have the label of the row; grey: no such image{part}'
    )
    axes.set_title(title, fontsize=9)


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
    count in any plot. Of more than 40 classes, it shows the 40 that are confused most.

    The folder is created if necessary. The other arguments are those of `class_report`.
    """
    scores, targets = check_rows(scores, targets, class_names)
    ranking = scores if ranking is None else check_rows(ranking, targets, class_names)[0]
    threshold = check_threshold(threshold, scores.shape[1])
    bars, cells = (CELL * min(len(class_names), most) for most in (MAX_BARS, MAX_CELLS))  # inches
    Path(folder).mkdir(parents=True, exist_ok=True)
    ap, names = 100 * average_precision(ranking, targets), [short_name(name) for name in class_names]
    for name, draw, size, arguments in (
        ('precision_recall', _draw_precision_recall, (7, 6), (ranking, targets, names, ap)),
        ('ap_by_class', _draw_ap, (7, 1 + bars), (targets, names, ap)),
        ('cooccurrence', _draw_cooccurrence, (6 + cells, 2.5 + cells), (scores, targets, names, threshold)),
    ):
        figure = create_figure(figsize=size)
        draw(figure.subplots(), *arguments)
        save_figure(figure, Path(folder) / f'{name}.png', dpi=100, bbox_inches='tight')
