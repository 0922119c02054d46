"""Plots of an evaluation: precision over recall, AP by class, and co-occurrence."""

import warnings
from pathlib import Path
from typing import Any, List, Sequence, Union

import numpy as np

from ..metrics import Array, Threshold, average_precision, check_threshold, rank, ratio
from ..runtime import replacing
from .class_report import check_rows

__all__ = ['create_figure', 'draw_plots', 'save_figure']

MAX_NAMES = 200  # bars with a name; of more classes only every n-th gets one
MAX_CELLS = 100  # classes in the matrix


def create_figure(**kwargs: Any) -> Any:
    """Create a matplotlib figure that needs no display. The arguments are those of `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(**kwargs)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Union[str, Path], **kwargs: Any) -> None:
    """Write a figure in the format of the path's suffix, png without one. More arguments are those of `savefig`."""
    with replacing(path, 'wb') as file:
        figure.savefig(file, format=Path(path).suffix[1:] or 'png', **kwargs)


def _short(name: str) -> str:
    """Make a class name fit for a plot: short, in one line, and not a formula."""
    name = ' '.join(name.split())
    return (name if len(name) <= 28 else f'{name[:27]}…').replace('$', r'\$')


def _precision_at(scores: np.ndarray, targets: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Precision at the highest threshold that reaches each recall, over known targets with at least one positive."""
    known = targets >= 0
    _, hits, images = rank(scores[known], targets[known] > 0)
    at = np.searchsorted(hits, recalls * hits[-1] - 1e-6)  # less than a hit, more than the rounding of the product
    return hits[at] / images[at]


def _draw_precision_recall(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str]) -> None:
    recalls = np.linspace(0, 1, 201)  # as fine as a picture shows; there may be N thresholds
    present = np.flatnonzero((targets > 0).any(axis=0))
    curves = [_precision_at(scores[:, i], targets[:, i], recalls) for i in present]
    for n, (i, curve) in enumerate(zip(present, curves)):
        # matplotlib hides labels that start with '_'
        few = dict(color=f'C{n % 10}', ls='-' if n < 10 else '--', label=f' {names[i]}')
        axes.plot(recalls, curve, lw=1, **(few if len(present) <= 20 else dict(color='0.5', alpha=0.3)))
    if curves:
        axes.plot(recalls, np.mean(curves, axis=0), 'k', lw=2.5, label=f'mean of {len(curves)} classes')
        axes.plot(recalls, _precision_at(scores, targets, recalls), 'r--', lw=2, label='all classes pooled')
        axes.legend(loc='upper left', bbox_to_anchor=(1.01, 1), fontsize=8)
    axes.set_title(f'{len(scores)} images, {len(present)} of {len(names)} classes have positives')
    axes.set(xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _draw_ap(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str]) -> None:
    ap, positives = 100 * average_precision(scores, targets), (targets > 0).sum(axis=0)
    order = np.lexsort((-positives, -ap))
    axes.barh(np.arange(len(ap)), ap[order])
    ticks = np.arange(0, len(ap), -(-len(ap) // MAX_NAMES))
    axes.set_yticks(ticks, [f'{names[i]} ({positives[i]})  {ap[i]:.1f}' for i in order[ticks]], fontsize=8)
    axes.axvline(mean := ratio(ap.sum(), (positives > 0).sum()), color='k', ls='--', lw=1)
    axes.set_title(f'mAP {ap.mean():.2f}, of classes with positives {mean:.2f}')
    axes.set(xlabel='AP in % (positives in brackets)', xlim=(0, 100), ylim=(len(ap) - 0.4, -0.6))


def _confusion(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cells of the co-occurrence plot (1 + L, L) in percent, nan if no image counts. The first row is all images."""
    present, absent = (x.astype(np.float32) for x in (targets > 0, targets == 0))  # products of floats are fast
    diagonal = np.arange(1, 1 + targets.shape[1]), np.arange(targets.shape[1])
    rows = np.vstack([np.ones(len(targets), np.float32), present.T])
    counts, support = rows @ (predicted * absent), rows @ absent
    counts[diagonal], support[diagonal] = (present * ~predicted).sum(axis=0), present.sum(axis=0)
    return np.where(support > 0, 100 * ratio(counts, support), np.nan)


def _draw_cooccurrence(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str], threshold: Any) -> None:
    from matplotlib.colors import PowerNorm

    positives = (targets > 0).sum(axis=0)
    kept = np.sort(np.argsort(-positives, kind='stable')[:MAX_CELLS])
    matrix = _confusion((scores >= threshold.astype(scores.dtype))[:, kept], targets[:, kept])
    diagonal = np.eye(*matrix.shape, k=-1, dtype=bool)
    axes.set_facecolor('0.9')  # shows in cells of nan
    for colours, label, cells in (('Reds', '% predicted although absent', ~diagonal), ('Blues', '% missed', diagonal)):
        part = np.where(cells, matrix, np.nan)
        top = np.nanmax(part, initial=0) or 1
        image = axes.imshow(part, colours, PowerNorm(0.5, 0, top))  # most cells are far below the largest
        axes.figure.colorbar(image, ax=axes, label=label, shrink=0.6)
        for row, column in np.argwhere(part >= 0.5) if len(kept) <= 20 else ():
            style = dict(ha='center', va='center', fontsize=6, color='w' if part[row, column] > 0.4 * top else 'k')
            axes.text(column, row, f'{part[row, column]:.0f}', **style)
    rows = [f'any image ({len(scores)})', *(f'{names[i]} ({positives[i]})' for i in kept)]
    axes.set_yticks(np.arange(len(rows)), rows, fontsize=7)
    axes.set_xticks(np.arange(len(kept)), [names[i] for i in kept], fontsize=7, rotation=90)
    at = 'the thresholds of the classes' if threshold.ndim else f'threshold {threshold:g}'
    axes.set(xlabel=f'predicted label ({len(kept)} of {len(names)})', ylabel='label (images that have it)')
    axes.set_title(f'Wrong (red) and missed (blue) at {at}\nin images that have the label of the row', fontsize=9)


def draw_plots(
    folder: Union[str, Path], scores: Array, targets: Array, class_names: Sequence[str], threshold: Threshold = 0.5
) -> None:
    """Draw precision_recall.png, ap_by_class.png and cooccurrence.png.

    Row i and column j of the co-occurrence show in what percentage of the images with label i and without label j the
    model predicts j. The first row is over all images without j: if row i is far above it, label i misleads the model
    to j. The diagonal shows in what percentage of the images with label i the model misses it. Unknown labels do not
    count in any plot. Of more than 100 classes, it shows the 100 with most positives.

    The folder is created if necessary. The other arguments are those of `class_report`.
    """
    scores, targets = check_rows(scores, targets, class_names)
    threshold = check_threshold(threshold, scores.shape[1])
    bars, cells = (0.18 * min(len(class_names), most) for most in (MAX_NAMES, MAX_CELLS))  # inches
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, draw, size, arguments in (
        ('precision_recall', _draw_precision_recall, (7, 6), ()),
        ('ap_by_class', _draw_ap, (7, 1 + bars), ()),
        ('cooccurrence', _draw_cooccurrence, (6 + cells, 2.5 + cells), (threshold,)),
    ):
        figure = create_figure(figsize=size)
        draw(figure.subplots(), scores, targets, [_short(name) for name in class_names], *arguments)
        with warnings.catch_warnings():  # letters that the font lacks become boxes
            warnings.filterwarnings('ignore', 'Glyph .* missing from font')
            save_figure(figure, Path(folder) / f'{name}.png', dpi=100, bbox_inches='tight')
