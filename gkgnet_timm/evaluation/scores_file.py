"""Scores and targets of an evaluation as a file, to evaluate them again without the model."""

import os
import zipfile
from pathlib import Path
from typing import List, Sequence, Tuple, Union

import numpy as np

from ..class_names import check_names
from ..metrics import Array
from ..runtime import one_line, replacing
from .class_report import check_rows

__all__ = ['load_scores', 'save_scores']

SMALL, MOST_GROWTH = 1 << 28, 200  # bytes that any file may grow to; scores are not compressed more than this


def save_scores(
    path: Union[str, Path], scores: Array, targets: Array, files: Sequence[str], class_names: Sequence[str]
) -> None:
    """Write a compressed npz with the arrays `scores`, `targets` (int8), `files` and `classes` (text).

    Scores (N, L), targets (N, L) and class names are those of `class_report`. The path is used as it is.
    """
    scores, targets = check_rows(scores, targets, class_names, files)
    names = dict(files=np.array(files, dtype=str), classes=np.array(class_names, dtype=str))
    with replacing(path, 'wb') as file:  # given a path, numpy would add a suffix
        np.savez_compressed(file, scores=scores, targets=targets, **names)


def load_scores(path: Union[str, Path]) -> Tuple[np.ndarray, np.ndarray, List[str], List[str]]:
    """Read a file of `save_scores`, or a similar one. No code in it is run.

    Returns:
        Probabilities (N, L) in float32 or float64, as in the file, targets (N, L) int8, N file names and L class names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is different.
    """
    source = f'Scores file {str(path)!r}'
    if not Path(path).is_file():
        raise FileNotFoundError(f'{source} does not exist.')
    floats, integers, text = ('floats', 'f', 2), ('integers', 'iub', 2), ('text', 'U', 1)  # kinds and dimensions
    keys = {'scores': floats, 'targets': integers, 'files': text, 'classes': text}
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(SMALL, MOST_GROWTH * os.path.getsize(path)):
            raise MemoryError(f'{unpacked / 1e9:.1f} GB when unpacked')
        with open(path, 'rb') as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key]) for key in keys if key in archive.files}
        names = {key: arrays[key].tolist() for key in ('files', 'classes') if key in arrays}
    except Exception as error:  # zipfile, zlib and numpy raise a dozen types on damaged files
        reason = one_line(error) if isinstance(error, MemoryError) else type(error).__name__
        raise ValueError(f'{source} is not an npz of arrays without objects ({reason}).') from error
    for key, (what, kinds, ndim) in keys.items():
        if key not in arrays:
            raise ValueError(f'{source} has no array {key!r}.')
        dtype, shape = arrays[key].dtype, arrays[key].shape
        if dtype.kind not in kinds or len(shape) != ndim:
            raise ValueError(f'{source}: {key} must be {what} in {ndim} dimensions, got {dtype} of shape {shape}.')
    try:
        class_names = check_names(names['classes'], 'classes')
        scores = arrays['scores'].astype(arrays['scores'].dtype.newbyteorder('='))
        scores, targets = check_rows(scores, arrays['targets'], class_names, names['files'])
        if scores.min() < 0 or scores.max() > 1:
            raise ValueError(f'scores must be probabilities, got {scores.min():g} to {scores.max():g}.')
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    return scores, targets, names['files'], class_names
