"""The explanation of one image: what was chosen, as a picture, as json, and as a thumbnail."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image

from .frame import Box, Frame
from .overlap import dim, overlap
from .picture import draw_labels
from .star import draw_star

__all__ = ['Chosen', 'Explanation', 'Grid', 'Label']


class Grid(NamedTuple):
    """The patches of a stage.

    Attributes:
        stage: Stage, from 1.
        rows: Rows of patches.
        columns: Columns of patches.
        cell: Height and width of a patch in pixels that the model sees.
    """

    stage: int
    rows: int
    columns: int
    cell: Tuple[float, float]


class Label(NamedTuple):
    """A label that is explained.

    Attributes:
        label: Name of the class.
        score: Its probability.
        threshold: Lowest score at which it is predicted.
    """

    label: str
    score: float
    threshold: float


class Chosen(NamedTuple):
    """A patch that a label, or a patch, has as a neighbour.

    Attributes:
        label: Name of the class, None of a patch.
        stage: Stage, from 1.
        group: Channel group, from 1.
        rank: 1 for the nearest.
        row: Row in the map of the stage, from 0.
        column: Column, from 0.
        box: [x0, y0, x1, y1] in pixels of the upright original, clipped to it.
        similarity: Cosine of both in the channels of the group.
    """

    label: Optional[str]
    stage: int
    group: int
    rank: int
    row: int
    column: int
    box: Box
    similarity: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where the labels of an image looked, or in their place one patch.

    Attributes:
        file: Name of the image, '' if it has none.
        image: The upright original in RGB.
        model: Name of the model.
        class_names: L names.
        scores: Probabilities (L,).
        labels: What is explained, highest score first, or as asked for.
        patches: What was chosen, by label, stage, group and rank.
        grids: Patches of the stages that are shown. Those that a patch chooses from are larger in the first stages.
        frame: Where in the original the pixels are that the model saw.
        patch: Row and column in the map of the first stage of what is explained in place of labels.
        centers: Box of that patch in each stage that is shown.
    """

    file: str
    image: Image.Image
    model: str
    class_names: List[str] = field(repr=False)
    scores: np.ndarray = field(repr=False)
    labels: List[Label]
    patches: List[Chosen] = field(repr=False)
    grids: List[Grid]
    frame: Frame
    patch: Optional[Tuple[int, int]] = None
    centers: Tuple[Box, ...] = ()

    def to_json(self) -> List[Dict[str, Any]]:
        """Return what was chosen: for each patch a dict of the fields of `Chosen`."""
        return [dict(chosen._asdict(), box=[round(side, 2) for side in chosen.box]) for chosen in self.patches]

    def draw(self) -> Any:
        """Draw the picture of the labels, or of the patch, as a matplotlib figure."""
        if self.patch is None:
            return draw_labels(
                self.image, self.labels, self.patches, self.grids, self.frame.part, self.file, self.model
            )
        return draw_star(
            self.image, self.patch, self.centers, self.patches, self.grids, self.frame.part, self.file, self.model
        )

    def overlay(self, label: str, side: int = 224) -> Image.Image:
        """Return the image, darker the fewer stages and channel groups of a label chose a place.

        Args:
            label: One of the labels that are explained.
            side: Longer side in pixels. An image that is smaller is enlarged.

        Raises:
            ValueError: If the label is not explained.
        """
        if label not in [shown.label for shown in self.labels]:
            raise ValueError(f'{label!r} is not explained here: {", ".join(shown.label for shown in self.labels)} are.')
        factor = side / max(self.image.size)
        size = tuple(max(1, round(length * factor)) for length in self.image.size)
        image = self.image.resize(size, Image.Resampling.BICUBIC)
        counts = overlap([chosen for chosen in self.patches if chosen.label == label], self.image.size, size)
        shares = counts / max(1, counts.max())
        mask = Image.fromarray((255 * shares).astype(np.uint8))
        return Image.composite(image, dim(image), mask)
