"""Oversampling of rare classes."""

from typing import List

import numpy as np

__all__ = ['class_balanced_indices']


def class_balanced_indices(targets: np.ndarray, threshold: float) -> List[int]:
    """List the indices of an epoch in which images of rare classes are repeated, as in the published training.

    A class c found in a fraction f_c of the images asks for max(1, sqrt(threshold / f_c)) copies of them. An image
    occurs as often as its rarest class asks, rounded up, its copies side by side.

    Args:
        targets: (N, L), above 0 for classes that are in the image.
        threshold: Fraction of images in (0, 1) below which a class is rare.

    Raises:
        ValueError: If the threshold is not in (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(f'--oversample-thr must be a fraction of images in (0, 1), got {threshold}.')
    positive = targets > 0
    frequency = positive.mean(axis=0)
    repeats = np.sqrt(np.maximum(threshold / np.maximum(frequency, 1 / len(targets)), 1))  # (L,)
    counts = np.ceil(np.where(positive, repeats, 1).max(axis=1, initial=1)).astype(int)  # (N,)
    return [index for index, count in enumerate(counts) for _ in range(count)]
