"""Scores and targets of an evaluation as a file, to evaluate them again without the model."""

import os
import zipfile
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np

from ..class_names import check_names
from ..metrics import Array
from ..runtime import one_line, replacing
from .class_report import check_rows

__all__ = ['exact_scores', 'load_scores', 'save_scores']

SMALL, MOST_GROWTH = 1 << 28, 200  # bytes that any file may grow to; scores are not compressed more than this


def exact_scores(logits: np.ndarray) -> np.ndarray:
    """Scores of logits in float64, in which few tie that differ."""
    scores = np.negative(logits, dtype=np.float64)
    with np.errstate(over='ignore'):  # exp of a large number is inf, and 1 / inf is the right score
        np.exp(scores, out=scores)
    scores += 1
    return np.divide(1, scores, out=scores)


def save_scores(
    path: Union[str, Path],
    scores: Array,
    targets: Array,
    files: Sequence[str],
    class_names: Sequence[str],
    logits: Optional[Array] = None,
) -> None:
    """Write a compressed npz with the arrays `scores`, `targets` (int8), `files` and `classes` (text), and `logits`.

    Scores (N, L), targets (N, L) and class names are those of `class_report`. With logits (N, L) the file ranks images
    whose scores tie. The path is used as it is.
    """
    scores, targets = check_rows(scores, targets, class_names, files)
    more = {} if logits is None else dict(logits=check_rows(logits, targets, class_names)[0])
    names = dict(files=np.array(files, dtype=str), classes=np.array(class_names, dtype=str))
    with replacing(path, 'wb') as file:  # given a path, numpy would add a suffix
        np.savez_compressed(file, scores=scores, targets=targets, **names, **more)


def load_scores(path: Union[str, Path]) -> Tuple[np.ndarray, np.ndarray, np.ndarray, List[str], List[str]]:
    """Read a file of `save_scores`, or a similar one. No code in it is run.

    Returns:
        Probabilities (N, L) in float32 or float64, as in the file, what ranks images (N, L): logits if the file has
        them, else the probabilities, targets (N, L) int8, N file names and L class names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is different.
    """
    source = f'Scores file {str(path)!r}'
    if not Path(path).is_file():
        raise FileNotFoundError(f'{source} does not exist.')
    floats, integers, text = ('floats', 'f', 2), ('integers', 'iub', 2), ('text', 'U', 1)  # kinds and dimensions
    keys = {'scores': floats, 'targets': integers, 'files': text, 'classes': text, 'logits': floats}
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
        if key == 'logits' and key not in arrays:
            continue
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
        ranking = scores
        if 'logits' in arrays:
            ranking = check_rows(arrays['logits'], targets, class_names)[0]
            if ranking.shape != scores.shape or not np.allclose(exact_scores(ranking), scores, atol=1e-5):
                raise ValueError('scores are not those of the logits. Leave out one of these arrays.')
    except ValueError as error:
        raise ValueError(f'{source}: {error}') from error
    return scores, ranking, targets, names['files'], class_names
