"""From the outputs of a model to rows of labels."""

import sys
from itertools import islice
from typing import Iterator, List, Optional

import numpy as np
from tqdm import tqdm

from ..data.images import BadImageError
from .prediction_file import Row
from .predictor import Prediction

__all__ = ['batches_of_rows']


def _row(prediction: Prediction, names: List[str], threshold: np.ndarray, topk: Optional[int]) -> Row:
    file, scores, error = prediction
    if error:
        return dict(file=file, error=error)
    if not np.isfinite(scores).all():
        raise ValueError(f'Scores of {file!r} are not finite: broken weights, or numbers too large for --amp-dtype.')
    order = np.argsort(-scores, kind='stable')
    chosen = order[(scores >= threshold)[order]][:topk].tolist()
    return dict(file=file, labels=[dict(label=names[i], score=round(float(scores[i]), 6)) for i in chosen])


def batches_of_rows(
    predictions: Iterator[Prediction],
    names: List[str],
    threshold: np.ndarray,
    topk: Optional[int],
    batch_size: int,
    skip_bad: bool,
) -> Iterator[List[Row]]:
    """Yield the rows of each batch. An unreadable image is reported on stderr, or else ends the run.

    Args:
        predictions: Those of images, see `predict_images`.
        names: L class names.
        threshold: Lowest score of a label, or one for each class (L,).
        topk: Largest number of labels, None for all.
        batch_size: Images in a batch.
        skip_bad: Go on after an unreadable image.

    Raises:
        BadImageError: At an unreadable image, unless these are skipped.
        ValueError: If scores are not finite.
    """
    while batch := list(islice(predictions, batch_size)):
        for file, _, error in batch:
            if error and not skip_bad:
                raise BadImageError(f'Cannot read image {file!r}: {error}')
            if error:
                tqdm.write(f'Cannot read image {file!r}: {error}', file=sys.stderr)
        yield [_row(prediction, names, threshold, topk) for prediction in batch]
