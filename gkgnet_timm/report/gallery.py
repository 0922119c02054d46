"""Which mistakes a report shows: the worst of all, and of each class."""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np

__all__ = ['Gallery', 'Item', 'in_turn', 'pick']

Item = Tuple[int, int]  # row of the image, class

OF_ALL = 24  # items of a gallery over all classes
OF_CLASS = 12
OF_CLASSES = 400  # items of the galleries of all classes, and so most classes that have one


class Gallery(NamedTuple):
    """Items, worst first.

    Attributes:
        overall: Items over all classes, an image once.
        of_class: Items by class; classes that have none are left out.
        images: Number of images that an item is of, shown or not.
        totals: Number (L,) of items of each class, shown or not.
    """

    overall: List[Item]
    of_class: Dict[int, List[Item]]
    images: int
    totals: np.ndarray


def _worst(rows: np.ndarray, badness: np.ndarray, count: int) -> np.ndarray:
    return rows[np.argsort(-badness, kind='stable')[:count]]


def pick(chosen: np.ndarray, badness: np.ndarray) -> Gallery:
    """Pick the worst of the chosen scores. Of more classes, fewer items each, so that their sum has a bound.

    Args:
        chosen: (N, L) bool.
        badness: (N, L), highest first.
    """
    totals = chosen.sum(axis=0)
    count = max(1, min(OF_CLASS, OF_CLASSES // chosen.shape[1]))
    shown = np.sort(np.argsort(-totals, kind='stable')[:OF_CLASSES])
    of_class = {}
    for label in shown[totals[shown] > 0].tolist():
        rows = np.flatnonzero(chosen[:, label])
        of_class[label] = [(row, label) for row in _worst(rows, badness[rows, label], count).tolist()]
    worst = np.where(chosen, badness, -np.inf).argmax(axis=1)  # of each image
    rows = np.flatnonzero(chosen.any(axis=1))
    overall = [(row, int(worst[row])) for row in _worst(rows, badness[rows, worst[rows]], OF_ALL).tolist()]
    return Gallery(overall, of_class, len(rows), totals)


def in_turn(galleries: List[Gallery]) -> List[Item]:
    """Items of galleries in the order of their importance, each once: those over all, then by class and rank."""
    items = [gallery.overall for gallery in galleries]
    deepest = max((len(of) for gallery in galleries for of in gallery.of_class.values()), default=0)
    for rank in range(deepest):
        items += [of[rank : rank + 1] for gallery in galleries for of in gallery.of_class.values()]
    return list(dict.fromkeys(item for part in items for item in part))
