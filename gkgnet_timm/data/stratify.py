"""Division of labelled images into parts that have each label in the same proportion."""

from typing import Optional, Sequence

import numpy as np

__all__ = ['stratify']

MOST_CLASSES = 256  # that are balanced, the rarest ones; the time grows with the square
MOST_CANDIDATES = 100  # rows to choose from, of those that could give way to another


def stratify(
    targets: np.ndarray, fractions: Sequence[float], seed: int = 0, groups: Optional[Sequence[str]] = None
) -> np.ndarray:
    """Choose a part for each image, by iterative stratification (Sechidis et al. 2011).

    A label with as many images (or groups) as there are parts is in every part, unless other rare labels of its images
    stand against that; one with fewer is in the first of them.

    Args:
        targets: (N, L), above 0 for labels that an image has.
        fractions: Share of images of each of the P parts, above 0, which add up to 1.
        seed: Of ties.
        groups: Group of each image; those of a group stay together. None: each image is a group.

    Returns:
        (N,), from 0 to P - 1.

    Raises:
        ValueError: If a fraction is out of range, there are too few images or groups, or the library is missing.
    """
    fractions = np.asarray(fractions, dtype=float)
    if not (fractions > 0).all() or not np.isclose(fractions.sum(), 1):
        raise ValueError(f'Shares of the parts must be above 0 and add up to 1, got {fractions.tolist()}.')
    try:
        from iterstrat.ml_stratifiers import IterativeStratification
    except ImportError:
        raise ValueError("A stratified split needs the package: pip install 'gkgnet-timm[split]'.") from None
    labels, rows = targets > 0, np.arange(len(targets))
    if groups is not None:
        names, rows = np.unique(np.asarray(groups), return_inverse=True)
        labels = np.zeros((len(names), targets.shape[1]), dtype=bool)
        np.logical_or.at(labels, rows, targets > 0)
    if len(labels) < len(fractions):
        kind = 'images' if groups is None else 'groups'
        raise ValueError(f'{len(labels)} {kind} cannot be divided into {len(fractions)} parts.')
    counts = labels.sum(axis=0)
    balanced = labels[:, np.argsort(np.where(counts, counts, len(labels)), kind='stable')[:MOST_CLASSES]]
    if groups is not None:  # groups of every size in every part
        sizes = np.log2(np.bincount(rows)).astype(int)
        balanced = np.concatenate([balanced, np.eye(sizes.max() + 1, dtype=bool)[sizes]], axis=1)
    parts = IterativeStratification(balanced, fractions, np.random.RandomState(seed))
    _fill_parts(parts, len(fractions))
    _keep_rare_labels(labels, parts, fractions)
    return parts[rows]


def _fill_parts(parts: np.ndarray, num_parts: int) -> None:
    """Give a part that is empty a row of the largest one."""
    for part in range(num_parts):
        if part not in parts:
            parts[np.flatnonzero(parts == np.bincount(parts).argmax())[0]] = part


class _Parts:
    """Which part each row (R, L) is in, and how many rows with each label a part has to spare."""

    def __init__(self, labels: np.ndarray, parts: np.ndarray, num_parts: int):
        self.parts, self.sizes = parts, np.bincount(parts, minlength=num_parts)
        self.labels_of = np.split(np.nonzero(labels)[1], np.cumsum(labels.sum(axis=1))[:-1])
        # a label belongs into as many parts as it has rows, the first ones if they are too few
        needed = np.arange(num_parts)[:, None] < np.minimum(labels.sum(axis=0), num_parts)
        self.spare = np.stack([labels[parts == part].sum(axis=0) for part in range(num_parts)]) - needed  # (P, L)

    def least_spare(self, row: int) -> int:
        """How many rows its part has to spare of the rarest label of a row, large without labels."""
        return self.spare[self.parts[row], self.labels_of[row]].min(initial=len(self.parts))

    def move(self, row: int, part: int) -> None:
        for index, change in ((self.parts[row], -1), (part, 1)):
            self.spare[index, self.labels_of[row]] += change
            self.sizes[index] += change
        self.parts[row] = part


def _keep_rare_labels(labels: np.ndarray, parts: np.ndarray, fractions: np.ndarray) -> None:
    """Move rows (R, L) into parts that lack a label, and others back, so that the parts keep their sizes.

    What a part needs goes before the needs of those after it.
    """
    state, total = _Parts(labels, parts, len(fractions)), labels.sum(axis=0)
    for part, most in enumerate(np.ceil(fractions * len(labels))):
        for label in np.argsort(total, kind='stable'):
            if state.spare[part, label] >= 0:
                continue
            found, can_swap = [], any(state.least_spare(row) > 0 for row in np.flatnonzero(parts == part))
            for row in np.flatnonzero(labels[:, label]):
                donor, least = parts[row], state.least_spare(row)
                if (state.sizes[donor] > 1 or can_swap) and (donor > part or least > 0):
                    found.append((-least, -state.spare[donor, label], row))
            if not found:
                continue
            row = min(found)[2]
            donor = parts[row]
            state.move(row, part)
            if state.sizes[part] > most or not state.sizes[donor]:
                others = np.flatnonzero(parts == part)
                others = others[:: max(1, len(others) // MOST_CANDIDATES)]
                back = max(others, key=state.least_spare)  # a row of common labels, or of none
                if state.least_spare(back) > 0:
                    state.move(back, donor)
