"""Deletion and insertion curves: how well the label graph finds what matters, next to Grad-CAM and to chance."""

import os
import zlib
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch.nn as nn
from PIL import Image

from ..evaluation.figures import BLUE, ORANGE, create_figure
from .grad_cam import grad_cam
from .masking import chosen_heat, image_part, masked_scores, mean_colour
from .result import Explanation
from .seen import see

__all__ = ['METHODS', 'SHARES', 'Curves', 'compare', 'conclude', 'draw_curves', 'evaluate', 'steps']

METHODS = {'graph': 'label graph', 'grad_cam': 'Grad-CAM', 'random': 'random'}
STYLES = {'graph': (BLUE, '-'), 'grad_cam': (ORANGE, '--'), 'random': ('#666666', ':')}
SHARES = np.linspace(0, 1, 21)  # of the pixels
COARSENESS = 8  # spots of the noise along a side


class Curves(NamedTuple):
    """Scores of a label when a method says which pixels go or come first, at each of `SHARES`.

    Attributes:
        file: Name of the image.
        label: Name of the class.
        method: One of `METHODS`.
        deletion: When the first pixels are greyed out.
        insertion: When all but the first pixels are.
    """

    file: str
    label: str
    method: str
    deletion: np.ndarray
    insertion: np.ndarray

    def area(self, curve: str) -> float:
        """Area under the 'deletion' or 'insertion' curve, a mean score."""
        values = getattr(self, curve)
        return float((values[1:] + values[:-1]).mean() / 2)


def evaluate(
    model: nn.Module, explanations: Iterable[Explanation], *, labels: int = 3, batch_size: int = 32
) -> Iterator[Curves]:
    """Yield the curves of each method for the labels of explanations that reach their threshold.

    The label graph ranks a pixel by the similarity of the patches that were chosen there, summed over stages and
    channel groups: of the weights that were tried, it was better than none for one model and equal for another, and
    better than the rank. Grad-CAM ranks it by its map. Noise of spots, the same for all methods, ranks what is
    equal; on its own it is the random ranking. Of single pixels at random, a few would damage every object.

    Grey is the mean colour of the image, as in `causal.measure`.

    Args:
        model: The model that was explained.
        explanations: Of labels. The noise depends on the names of files, so it can be repeated.
        labels: Labels of an image, those of the highest scores.
        batch_size: Images in a batch.

    Raises:
        UserError: If pytorch-grad-cam is not installed.
        ValueError: If scores are not finite.
    """
    for explanation in explanations:
        confident = sorted(
            (label for label in explanation.labels if label.score >= label.threshold), key=lambda label: -label.score
        )[:labels]
        if not confident:
            continue
        _, _, pixels, frame = see(model, explanation.image)
        height, width = pixels.shape[2:]
        inside = image_part(frame, height, width)
        colour = mean_colour(pixels, inside)
        indices = [explanation.class_names.index(label.label) for label in confident]
        noise = _noise(height, width, os.path.basename(explanation.file))
        for label, index, cam in zip(confident, indices, grad_cam(model, pixels, indices)):
            patches = [patch for patch in explanation.patches if patch.label == label.label]
            chosen = chosen_heat(patches, explanation.grids, height, width)
            for method, heat in (('graph', chosen), ('grad_cam', cam), ('random', noise)):
                masks = _masks(heat, noise, inside)
                scores = masked_scores(model, pixels, masks, colour, batch_size)[:, index]
                yield Curves(explanation.file, label.label, method, *np.split(scores, 2))


def _noise(height: int, width: int, name: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    spots = Image.fromarray(rng.normal(size=(COARSENESS, COARSENESS)).astype(np.float32))
    return np.asarray(spots.resize((width, height), Image.Resampling.BICUBIC))


def _masks(heat: np.ndarray, noise: np.ndarray, inside: np.ndarray) -> List[np.ndarray]:
    """What is greyed out at each of `SHARES` in deletion, then in insertion: hottest pixels first."""
    order = np.lexsort((-noise[inside], -heat[inside]))
    ranks = np.full(inside.shape, len(order))
    ranks[inside] = np.argsort(order)
    deleted = [ranks < round(share * len(order)) for share in SHARES]
    return [*deleted, *(inside & ~mask for mask in deleted)]


def steps(curves: Sequence[Curves]) -> List[Dict[str, Any]]:
    """Rows of a table with a score at each share."""
    return [
        dict(
            file=one.file,
            label=one.label,
            method=one.method,
            share=round(float(share), 2),
            deletion=float(f'{deletion:.6f}'),
            insertion=float(f'{insertion:.6f}'),
        )
        for one in curves
        for share, deletion, insertion in zip(SHARES, one.deletion, one.insertion)
    ]


def _areas(curves: Sequence[Curves], method: str, curve: str) -> np.ndarray:
    return np.array([one.area(curve) for one in curves if one.method == method])


def _mean_and_error(values: np.ndarray) -> Tuple[float, float]:
    """Mean, and its standard error, nan of a single value."""
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float('nan')


def compare(curves: Sequence[Curves]) -> List[Dict[str, str]]:
    """Rows of a table of the areas, each a mean over labels with its standard error, and that of paired differences."""
    rows = []
    for method, title in METHODS.items():
        areas = {curve: _areas(curves, method, curve) for curve in ('deletion', 'insertion')}
        texts = {curve: '{:.3f} ± {:.3f}'.format(*_mean_and_error(of_curve)) for curve, of_curve in areas.items()}
        rows.append(dict(method=title, **texts))
    differences = {curve: _difference(curves, curve) for curve in ('deletion', 'insertion')}
    texts = {curve: '{:+.3f} ± {:.3f}'.format(*of_curve) for curve, of_curve in differences.items()}
    return [*rows, dict(method='label graph - Grad-CAM', **texts)]


def _difference(curves: Sequence[Curves], curve: str) -> Tuple[float, float]:
    return _mean_and_error(_areas(curves, 'graph', curve) - _areas(curves, 'grad_cam', curve))


def conclude(curves: Sequence[Curves]) -> str:
    """Say in a sentence which of label graph and Grad-CAM explains better."""
    verdicts = {}
    for curve, sign in (('deletion', -1), ('insertion', 1)):
        mean, error = _difference(curves, curve)
        # two standard errors; of a single label there is none, and nothing is known
        verdicts[curve] = ('better' if sign * mean > 0 else 'worse') if abs(mean) > 2 * error else 'neither'
    words = {
        'better': 'the label graph explains better than Grad-CAM',
        'worse': 'Grad-CAM explains better than the label graph',
        'neither': 'neither of label graph and Grad-CAM is clearly better',
    }
    deletion, insertion = verdicts['deletion'], verdicts['insertion']
    if deletion == insertion:
        verdict = f'{words[deletion]}, by deletion and by insertion'
    else:
        verdict = f'{words[deletion]} by deletion, and {words[insertion]} by insertion'
    images, labels = len({one.file for one in curves}), len(curves) // len(METHODS)
    of_images = f'these {images} images' if images > 1 else 'this image'
    of_labels = f'{labels} confident label{"s" * (labels > 1)}'
    return f'On {of_images} with {of_labels}, {verdict}.'


def draw_curves(curves: Sequence[Curves]) -> Any:
    """Draw the mean curves of each method, with their standard errors, as a matplotlib figure."""
    labels = len(curves) // len(METHODS)
    figure = create_figure(figsize=(9.5, 4.2), layout='constrained')
    for axes, curve, title, moved in zip(
        figure.subplots(1, 2, sharey=True),
        ('deletion', 'insertion'),
        ('Deletion: lower is better', 'Insertion: higher is better'),
        ('greyed out', 'shown'),
    ):
        for method, (colour, dash) in STYLES.items():
            values = np.array([getattr(one, curve) for one in curves if one.method == method])
            mean = values.mean(axis=0)
            area = _areas(curves, method, curve).mean()
            axes.plot(100 * SHARES, mean, color=colour, ls=dash, lw=2, label=f'{METHODS[method]}, area {area:.3f}')
            if labels > 1:
                error = values.std(axis=0, ddof=1) / labels**0.5
                axes.fill_between(100 * SHARES, mean - error, mean + error, color=colour, alpha=0.18, lw=0)
        axes.set(title=title, xlabel=f'% of the pixels {moved}, first by each method', xlim=(0, 100), ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.axes[0].set_ylabel(f'mean score of {labels} label{"s" * (labels > 1)}, ± its standard error')
    return figure
