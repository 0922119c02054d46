"""What an evaluation leaves behind: figures of every class, scores to evaluate again, and plots."""

import csv
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from .data.reader import check_names
from .metrics import Array, Threshold, average_precision, check_scores, check_threshold, ratio
from .thresholds import calibrate

__all__ = ['class_report', 'draw_plots', 'load_scores', 'save_scores', 'write_class_report']

COLUMNS = ('name', 'positives', 'AP', 'precision', 'recall', 'F1', 'best_threshold')
MAX_NAMES = 200  # bars with a name; of more classes every n-th has one
MAX_CELLS = 100  # classes in the matrix

Rows = List[Dict[str, Any]]


def _checked_rows(scores: Array, targets: Array, class_names: Sequence[str], files: Optional[Sequence[str]] = None):
    scores, targets = check_scores(scores, targets)
    if len(class_names) != scores.shape[1]:
        raise ValueError(f'scores have {scores.shape[1]} classes, but there are {len(class_names)} class names.')
    if files is not None and len(files) != len(scores):
        raise ValueError(f'scores are of {len(scores)} images, but there are {len(files)} files.')
    return scores, targets


def class_report(scores: Array, targets: Array, class_names: Sequence[str], threshold: Threshold = 0.5) -> Rows:
    """Figures of every class, in percent. Means of AP, precision and recall are mAP, CP and CR of `multilabel_metrics`.

    Args:
        scores: Probabilities (N, L).
        targets: (N, L), 1 for a label, 0 for none, -1 for unknown: not ranked, a negative in all other figures.
        class_names: L names.
        threshold: Score in (0, 1) from which on a label is predicted, or one for each class (L,).

    Returns:
        Of each class: name, positives (images), AP, precision, recall and F1, all 0 where they are 0 / 0, and
        best_threshold, the score in (0, 1) that `calibrate` chooses on these images.
    """
    scores, targets = _checked_rows(scores, targets, class_names)
    threshold = check_threshold(threshold, scores.shape[1])
    predicted, positive = scores >= threshold.astype(scores.dtype), targets > 0  # in the type of scores, as in metrics
    hits, predictions, positives = (x.sum(axis=0) for x in (predicted & positive, predicted, positive))
    columns = [positives, 100 * average_precision(scores, targets)]
    for numerator, denominator in ((hits, predictions), (hits, positives), (2 * hits, predictions + positives)):
        columns.append(100 * ratio(numerator, denominator))
    columns.append(calibrate(scores, targets)[0])
    return [dict(zip(COLUMNS, row)) for row in zip(class_names, *(column.tolist() for column in columns))]


def write_class_report(path: Union[str, Path], rows: Rows) -> None:
    """Write the rows of `class_report` as CSV: figures with 4 decimals, thresholds, often tiny, with 6 digits."""
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            cells = {name: f'{value:.4f}' if isinstance(value, float) else value for name, value in row.items()}
            cells['best_threshold'] = f'{row["best_threshold"]:.6g}'
            writer.writerow(cells.values())


def save_scores(
    path: Union[str, Path], scores: Array, targets: Array, files: Sequence[str], class_names: Sequence[str]
) -> None:
    """Write scores and labels as compressed npz: `scores`, `targets` int8, `files` and `classes` as text.

    Probabilities (N, L), labels (N, L) and class names are as in `class_report`. No suffix is added to the path.
    """
    scores, targets = _checked_rows(scores, targets, class_names, files)
    names = dict(files=np.array(files, dtype=str), classes=np.array(class_names, dtype=str))
    with open(path, 'wb') as file:  # numpy would add a suffix to a path
        np.savez_compressed(file, scores=scores, targets=targets, **names)


def load_scores(path: Union[str, Path]) -> Tuple[np.ndarray, np.ndarray, List[str], List[str]]:
    """Read a file of `save_scores`, or one like it from elsewhere. No code in it is run.

    Returns:
        Probabilities (N, L) in the float32 or float64 of the file, targets (N, L) int8, N file names and L class names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has other content.
    """
    source = f'Scores file {str(path)!r}'
    if not Path(path).is_file():
        raise FileNotFoundError(f'{source} does not exist.')
    floats, integers, text = ('floats', 'f', 2), ('integers', 'iub', 2), ('text', 'U', 1)  # kinds and dimensions
    keys = {'scores': floats, 'targets': integers, 'files': text, 'classes': text}
    try:
        with open(path, 'rb') as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in keys if key in archive.files}
        names = {key: arrays[key].tolist() for key in ('files', 'classes') if key in arrays}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types on damaged files
        raise ValueError(f'{source} is not an npz of arrays without objects ({type(error).__name__}).') from error
    for key, (what, kinds, ndim) in keys.items():
        if key not in arrays:
            raise ValueError(f'{source} has no array {key!r}.')
        dtype, shape = arrays[key].dtype, arrays[key].shape
        if dtype.kind not in kinds or len(shape) != ndim:
            raise ValueError(f'{source}: {key} must be {what} in {ndim} dimensions, got {dtype} of shape {shape}.')
    try:
        class_names = check_names(names['classes'], 'classes')
        scores = arrays['scores'].astype(arrays['scores'].dtype.newbyteorder('='))
        scores, targets = _checked_rows(scores, arrays['targets'], class_names, names['files'])
        if scores.min() < 0 or scores.max() > 1:
            raise ValueError(f'scores must be probabilities, got {scores.min():g} to {scores.max():g}.')
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    return scores, targets, names['files'], class_names


def _short(name: str) -> str:
    """Class name for a plot: not too long, in one line, and no formula."""
    name = ' '.join(name.split())
    return (name if len(name) <= 28 else f'{name[:27]}…').replace('$', r'\$')


def _precision_at(scores: np.ndarray, targets: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Precision at the highest threshold that reaches each recall, over known targets, which have a positive."""
    known = targets >= 0
    scores, positive = scores[known], targets[known] > 0
    order = np.argsort(-scores)
    scores = scores[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    hits = positive[order].cumsum()[last]
    at = np.searchsorted(hits, recalls * hits[-1] - 1e-6)  # less than a hit, more than the rounding of the product
    return hits[at] / (last[at] + 1)


def _draw_precision_recall(axes: Any, scores: np.ndarray, targets: np.ndarray, names: List[str]) -> None:
    recalls = np.linspace(0, 1, 201)  # all that a picture resolves, of up to N thresholds
    present = np.flatnonzero((targets > 0).any(axis=0))
    curves = [_precision_at(scores[:, i], targets[:, i], recalls) for i in present]
    for n, (i, curve) in enumerate(zip(present, curves)):
        few = dict(color=f'C{n % 10}', ls='-' if n < 10 else '--', label=f' {names[i]}')  # ' ': none starts with '_'
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
    """Cells of the co-occurrence plot (1 + L, L) in percent, nan where no image counts. First row: all images."""
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
    axes.set_facecolor('0.9')  # where no image counts
    for colours, label, cells in (('Reds', '% predicted although absent', ~diagonal), ('Blues', '% missed', diagonal)):
        part = np.where(cells, matrix, np.nan)
        top = np.nanmax(part, initial=0) or 1
        image = axes.imshow(part, colours, PowerNorm(0.5, 0, top))  # most are far below the largest
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

    The co-occurrence in row i and column j is the percentage, among images with label i and without label j, of those
    that j is predicted in. The first row is over all images without j: where row i exceeds it by much, label i misleads
    the model to j. On the diagonal is the percentage of images with label i that it is missed in. Unknown labels do
    not count in any plot. Of more than 100 classes the 100 with most positives are in it.

    The folder is made if need be. The rest is as in `class_report`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and never needs a display
    from matplotlib.figure import Figure

    scores, targets = _checked_rows(scores, targets, class_names)
    threshold = check_threshold(threshold, scores.shape[1])
    bars, cells = (0.18 * min(len(class_names), most) for most in (MAX_NAMES, MAX_CELLS))  # inches
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, draw, size, arguments in (
        ('precision_recall', _draw_precision_recall, (7, 6), ()),
        ('ap_by_class', _draw_ap, (7, 1 + bars), ()),
        ('cooccurrence', _draw_cooccurrence, (6 + cells, 2.5 + cells), (threshold,)),
    ):
        FigureCanvasAgg(figure := Figure(figsize=size))
        draw(figure.subplots(), scores, targets, [_short(name) for name in class_names], *arguments)
        with warnings.catch_warnings():  # a name that the font lacks is a row of boxes, and no more than that
            warnings.filterwarnings('ignore', 'Glyph .* missing from font')
            figure.savefig(Path(folder) / f'{name}.png', dpi=100, bbox_inches='tight')
