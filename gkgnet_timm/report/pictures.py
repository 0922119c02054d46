"""The images of a report: thumbnails, labels with scores, and where the label nodes looked."""

from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from PIL import Image

from ..data.progress_bar import ProgressBar
from ..evaluation.evaluate import Evaluation
from ..metrics.figures import check_threshold
from .gallery import Gallery, Item, in_turn
from .thumbnails import Album
from .words import explain_gallery

__all__ = ['Look', 'describe_pictures']

# patches that label nodes of an image chose, by class: stage, channel group, and a box in thousandths of the image
Look = Callable[[Image.Image, Sequence[int]], Dict[int, List[List[int]]]]

MOST_LOOKED = 120  # images whose label nodes are asked where they looked
BEST = 3  # scores that are shown of an image in any case
MOST_LABELS = 40


def _labels(evaluation: Evaluation, row: int, wanted: Sequence[int], thresholds: np.ndarray) -> Dict[str, Any]:
    """Labels that an image has or is given, as class, score, target and whether it is given, highest score first, and
    how many more there are."""
    scores, targets = evaluation.scores[row], evaluation.targets[row]
    given = scores >= thresholds
    order = np.argsort(-evaluation.ranking[row], kind='stable')
    rank = np.argsort(order)
    matters = (targets != 0) | given | (rank < BEST)
    is_wanted = np.isin(np.arange(len(scores)), wanted)
    first = np.lexsort((rank, targets <= 0, ~is_wanted))  # those of the galleries, then those that it has
    shown = first[(matters | is_wanted)[first]][:MOST_LABELS]
    labels = [
        [label, round(float(scores[label]), 4), int(targets[label]), int(given[label])]
        for label in shown[np.argsort(rank[shown])].tolist()
    ]
    return dict(labels=labels, more=int((matters | is_wanted).sum()) - len(labels))


def _describe(found: int, wanted: int, images: int, looked: int, can_look: bool, was_given: bool) -> str:
    """Say how many pictures there are of how many."""
    if not wanted:
        return ''
    if not was_given:
        return 'There are no pictures, as the images are not at hand: they are named only.'
    if not found:
        return (
            'There are no pictures, as none of the images was found: give the folder that the names of files start '
            'from by --images DIR.'
        )
    text = f'Pictures of {found:,} of {images:,} images are in this page'
    text += f'; {wanted - found:,} more are named without one.' if found < wanted else '.'
    return text + (f' Where the label nodes looked is shown for {looked:,} of them.' if can_look else '')


def describe_pictures(
    evaluation: Evaluation,
    galleries: Dict[str, Optional[Gallery]],
    look: Optional[Look] = None,
) -> Dict[str, Any]:
    """Galleries, and the images in them, each once.

    Args:
        evaluation: Of which they are.
        galleries: By kind.
        look: Says where the label nodes of an image looked, None for a model without such nodes.
    """
    labels_of: Dict[int, List[int]] = {}  # by row, most important first
    for row, label in in_turn([gallery for gallery in galleries.values() if gallery]):
        labels_of.setdefault(row, []).append(label)
    places = {row: place for place, row in enumerate(labels_of)}
    thresholds = check_threshold(evaluation.threshold, len(evaluation.class_names)).astype(evaluation.scores.dtype)
    album, images, looks = Album(len(labels_of)), [], {}
    with ProgressBar(len(labels_of), 'pictures of the report') as bar:
        for row, labels in labels_of.items():
            image = evaluation.read_image(row) if evaluation.read_image else None
            described = dict(file=evaluation.files[row], **_labels(evaluation, row, labels, thresholds))
            if image is not None:
                described.update(src=album.add(image), size=image.size)
                if look and places[row] < MOST_LOOKED and described['src']:
                    looks.update({f'{places[row]}:{label}': patches for label, patches in look(image, labels).items()})
            images.append(described)
            bar.update(1)

    def place(items: List[Item]) -> List[List[int]]:
        return [[places[row], label] for row, label in items]

    shown = {}
    for kind, gallery in galleries.items():
        if gallery is None:
            continue
        sentence = explain_gallery(
            kind,
            len(gallery.overall),
            gallery.images,
            len(gallery.of_class),
            int((gallery.totals > 0).sum()),
            len(gallery.totals),
        )
        of_class = {label: place(items) for label, items in gallery.of_class.items()}
        totals = gallery.totals.tolist()
        shown[kind] = dict(sentence=sentence, overall=place(gallery.overall), classes=of_class, totals=totals)
    found = sum(bool(image.get('src')) for image in images)
    looked = len({key.partition(':')[0] for key in looks})
    total = len(evaluation.files)
    return dict(
        images=images,
        galleries=shown,
        looks=looks,
        pictures=_describe(found, len(images), total, looked, bool(look), evaluation.read_image is not None),
    )
