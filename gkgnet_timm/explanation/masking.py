"""Parts of the image that a model sees: which a label chose, and scores when some are greyed out."""

from typing import Any, Iterator, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn

from ..inference.predictor import probabilities
from .frame import Frame
from .seen import evaluating

__all__ = ['chosen_heat', 'chosen_pixels', 'image_part', 'masked_scores', 'mean_colour']


def chosen_heat(patches: Sequence[Any], grids: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Sum the similarity of what chose each pixel (height, width) that a model sees, over stages and groups.

    Args:
        patches: `Chosen` ones of one label. A similarity below 0 counts as 0.
        grids: `Grid`s of their stages.
        height: Height of the image that the model sees.
        width: Width.
    """
    heat = np.zeros((height, width))
    for chosen, part in _parts(patches, grids):
        heat[part] += max(0.0, chosen.similarity)
    return heat


def chosen_pixels(patches: Sequence[Any], grids: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Mark the pixels (height, width) that any stage or group chose, see `chosen_heat`."""
    mask = np.zeros((height, width), dtype=bool)
    for _, part in _parts(patches, grids):
        mask[part] = True
    return mask


def _parts(patches: Sequence[Any], grids: Sequence[Any]) -> Iterator[Tuple[Any, Tuple[slice, slice]]]:
    cells = {grid.stage: grid.cell for grid in grids}
    for chosen in patches:
        ends = zip((chosen.row, chosen.column), cells[chosen.stage])
        # a cell of an image that the model pads may begin behind its end
        yield chosen, tuple(slice(round(i * side), round((i + 1) * side)) for i, side in ends)


def image_part(frame: Frame, height: int, width: int) -> np.ndarray:
    """Mark the pixels (height, width) that a model sees which are of the image, and no padding of the preprocessing."""
    inside = []
    for side, old, scale, start in zip((width, height), frame.size, frame.scale, frame.start, strict=True):
        pixels = np.arange(side) + 0.5
        places = start + scale * pixels
        inside.append((places > 0) & (places < old))
    return inside[1][:, None] & inside[0]


def mean_colour(pixels: torch.Tensor, inside: np.ndarray) -> torch.Tensor:
    """Mean colour (C, 1) of the pixels (1, C, H, W) that are inside."""
    return pixels[0][:, torch.from_numpy(inside).to(pixels.device)].mean(dim=1, keepdim=True)


def masked_scores(
    model: nn.Module, pixels: torch.Tensor, masks: Sequence[np.ndarray], colour: torch.Tensor, batch_size: int = 32
) -> np.ndarray:
    """Probabilities (N, L) of an image under each of N masks.

    Args:
        model: Model with L classes.
        pixels: Normalised image (1, C, H, W).
        masks: Where the colour replaces the image, (H, W) each.
        colour: (C, 1).
        batch_size: Images in a batch.

    Raises:
        ValueError: If scores are not finite.
    """
    rows = []
    with evaluating(model):
        for first in range(0, len(masks), batch_size):
            batch = torch.from_numpy(np.stack(masks[first : first + batch_size])).to(pixels.device)
            images = torch.where(batch[:, None], colour[None, :, :, None], pixels)
            rows.append(probabilities(model(images).float().cpu().numpy()))
    scores = np.concatenate(rows)
    if not np.isfinite(scores).all():
        raise ValueError('Scores of a greyed image are not finite: broken weights, or an overflow in half precision.')
    return scores
