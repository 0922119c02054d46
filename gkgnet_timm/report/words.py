"""What the figures of a report mean, in sentences."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from ..evaluation.calibration import Reliability
from ..evaluation.curves import MOST_CLASSES
from ..evaluation.evaluate import Evaluation
from ..metrics import chance_level

__all__ = ['count', 'describe_data', 'describe_origin', 'explain_calibration', 'explain_figures', 'explain_gallery']

SIZES = dict(AP_small='small (below 32 x 32 px)', AP_medium='medium', AP_large='large (from 96 x 96 px on)')
KINDS = dict(
    false_positives=('The model gives a label that the image does not have', 'false positive', 'highest score'),
    misses=('The model does not give a label that the image has', 'miss', 'lowest score'),
    label_errors=(
        'Labels of the data set that do not fit the scores: wrong or missing ones, or mistakes of the model. The '
        'better the model, the more of them are errors of the data; look before you change one',
        'label that does not fit',
        'worst',
    ),
)


def count(number: int, one: str, many: Optional[str] = None) -> str:
    """A number of things in words."""
    return f'{number:,} {one if number == 1 else many or one + "s"}'


def describe_data(evaluation: Evaluation) -> List[str]:
    """Say what was evaluated, and what to know before the figures are read."""
    targets = evaluation.targets
    has = targets > 0
    unlabelled, unknown, absent = (~has.any(axis=1)).sum(), (targets < 0).sum(), (~has.any(axis=0)).sum()
    images, classes = targets.shape
    text = f'{count(images, "image")}, {count(classes, "class", "classes")}, {has.sum() / images:.2f} labels an image'
    known = 'known ' if (targets[~has.any(axis=1)] < 0).any() else ''
    without = f'{text}; {count(unlabelled, "image has", "images have")} no {known}label.'
    sentences = [without if unlabelled else f'{text}.']
    if unknown:
        do, they = ('It does', 'it counts') if unknown == 1 else ('They do', 'they count')
        sentences.append(
            f'{count(unknown, "label is", "labels are")} unknown. {do} not count in the ranking (AP), the histograms, '
            'the calibration and the galleries; where labels are predicted (precision, recall, F1), '
            f'{they} as absent, as is usual.'
        )
    if absent:
        sentences.append(
            f'{count(absent, "class has", "classes have")} no image with the label. AP, precision and recall '
            'count as 0 there in the mAP and in CF1, and a threshold cannot be chosen.'
        )
    if evaluation.unreadable:
        sentences.append(f'{count(len(evaluation.unreadable), "image")} could not be read and were left out.')
    return sentences


def describe_origin(origin: Mapping[str, Any], evaluation: Evaluation) -> Tuple[str, List[List[str]], List[str]]:
    """Title, facts and warnings on what was evaluated, see `write_report`."""
    names = dict(model='Model', checkpoint='Checkpoint', scores='Scores', dataset='Data set', split='Split')
    names.update(img_size='Image size', crop_mode='Crop')
    facts = [[name, str(origin[key])] for key, name in names.items() if origin.get(key)]
    threshold = evaluation.threshold
    facts.append(['Threshold', 'of each class' if np.ndim(threshold) else f'{threshold:g}'])
    title = ' on '.join(str(origin[key]) for key in ('model', 'split') if origin.get(key))
    warnings = [f'Careful: {origin["warning"]}'] if origin.get('warning') else []
    return title or Path(str(origin.get('scores', 'Evaluation'))).name, facts, warnings


def explain_figures(
    evaluation: Evaluation, best: Dict[str, float], calibration: Reliability
) -> List[Dict[str, Optional[str]]]:
    """Figures of a summary, each with what it means.

    Args:
        evaluation: The evaluation.
        best: Its figures at the best threshold of each class.
        calibration: Of all scores.
    """
    figures = evaluation.metrics
    at = 'the thresholds of the classes' if np.ndim(evaluation.threshold) else f'threshold {evaluation.threshold:g}'
    present = ''
    if figures['mAP_present'] != figures['mAP']:
        present = f' ({figures["mAP_present"]:.1f} over those that have images)'
    found = [
        (
            'mAP',
            figures['mAP'],
            'How well images that have a label are ranked above those that do not: the average precision, as a mean '
            f'over the classes{present}. Scores that ignore the image reach {chance_level(evaluation.targets):.1f}.',
        ),
        (
            'CF1',
            figures['CF1'],
            f'At {at}, as means over the classes: of the labels given, {figures["CP"]:.0f} % are right; of the labels '
            f'there are, {figures["CR"]:.0f} % are found. The best threshold of each class would give '
            f'{best["CF1"]:.1f}, on these images.',
        ),
        (
            'OF1',
            figures['OF1'],
            f'The same with every label alike, so that frequent classes count more: {figures["OP"]:.0f} % are right, '
            f'{figures["OR"]:.0f} % are found. With the threshold of best F1 of each class {best["OF1"]:.1f}: they are '
            'chosen for each class alone, which may lower this figure.',
        ),
        (
            'Calibration error',
            100 * calibration.error,
            'How far scores are from the share of images that have the label, on average over all scores, in points. '
            'With 0, of 100 labels with a score of 0.7, 70 are right.',
        ),
    ]
    for name, size in SIZES.items():
        if name in figures:
            found.append((name.replace('_', ' '), figures[name], f'mAP of labels whose largest object is {size}.'))
    return [dict(name=name, value=f'{value:.1f}', sentence=sentence) for name, value, sentence in found]


def explain_calibration(calibration: Reliability) -> str:
    """Say how far the highest scores can be trusted."""
    counts, scores, shares, _ = calibration
    top = counts[-1]
    if not top:
        return 'No score is as high as 0.9.'
    relation = (
        'as the scores say' if abs(shares[-1] - scores[-1]) < 0.03 else f'the scores say {100 * scores[-1]:.0f} %'
    )
    return f'Of {count(int(top), "score")} of 0.9 or more, {100 * shares[-1]:.0f} % are right ({relation}).'


def explain_gallery(kind: str, shown: int, total: int, classes: int, with_items: int, of_classes: int) -> str:
    """Say what a gallery shows of how many.

    Args:
        kind: Key of `KINDS`.
        shown: Images over all classes.
        total: Images that there are to show.
        classes: Classes that have a gallery of their own.
        with_items: Classes that would have one.
        of_classes: All classes.
    """
    what, one, order = KINDS[kind]
    is_part = kind == 'label_errors' and of_classes > MOST_CLASSES
    looked = f' Looked at are the {MOST_CLASSES} classes with most images.' if is_part else ''
    if not total:
        return f'No {one} in any image.{looked}'
    text = f'{what}. '
    text += f'{count(total, "image")} with a {one}' if total == shown else f'{shown} of {total:,} images with a {one}'
    text += f', {order} first.'
    if classes < with_items:
        text += f' Galleries of single classes are of the {classes} of {with_items} classes that have most.'
    return text + looked
