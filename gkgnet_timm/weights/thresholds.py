"""Thresholds of predicted labels, one for all classes or one for each."""

from pathlib import Path
from typing import Any, List, Sequence, Union

import numpy as np

from ..runtime import fits, quoted, read_json

__all__ = ['check_thresholds', 'load_threshold']


def check_thresholds(thresholds: Any, class_names: Sequence[str], source: str) -> List[float]:
    """Return the thresholds of a mapping by class, in the order of the classes.

    Raises:
        ValueError: If it is of other classes, or has something else than numbers in (0, 1). Names the source.
    """
    if not isinstance(thresholds, dict):
        raise ValueError(f'{source} has thresholds {quoted(thresholds)}, expected a number for each class.')
    for name, threshold in thresholds.items():
        if not fits(threshold, float) or not 0 < threshold < 1:
            problem = f'threshold {quoted(threshold)} of {name!r}, expected a number between 0 and 1'
            raise ValueError(f'{source} has {problem}.')
    if set(thresholds) != set(class_names):
        other = sorted(set(class_names) ^ set(thresholds))
        raise ValueError(
            f'{source} has other classes: {len(thresholds)} where the model has {len(class_names)}, {other[0]!r} is '
            'only in one of them.'
        )
    return [float(thresholds[name]) for name in class_names]


def load_threshold(value: Union[str, float, Path], class_names: List[str]) -> Union[float, np.ndarray]:
    """Return a number in (0, 1) as it is, or read a calibration file: one threshold for each class (L,).

    Raises:
        FileNotFoundError: If the value is neither a number nor a file.
        ValueError: If the number is out of range, or the file is malformed or for other classes.
    """
    try:
        number = float(value)
    except (ValueError, TypeError):  # the latter for a Path
        number = None
    if number is not None:
        if not 0 < number < 1:
            raise ValueError(f'--threshold must be a score between 0 and 1 or a calibration file, got {number:g}.')
        return number
    if not Path(value).is_file():
        raise FileNotFoundError(f'Threshold {str(value)!r} is neither a number nor a file.')
    try:
        classes = read_json(value)['classes']
        thresholds = {str(name): float(threshold) for name, threshold in classes.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f'{str(value)!r} is not a calibration file: validate.py --calibrate writes one.') from error
    return np.array(check_thresholds(thresholds, class_names, f'Calibration file {str(value)!r}'))
