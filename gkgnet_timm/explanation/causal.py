"""Whether the patches that labels chose matter for their scores: what it costs to grey them out."""

import os
import zlib
from typing import List, NamedTuple, Optional, Sequence

import numpy as np
import torch.nn as nn

from .masking import chosen_pixels, image_part, masked_scores, mean_colour
from .result import Explanation
from .seen import see

__all__ = ['Effect', 'conclude', 'measure']

NEARLY_ALL = 0.95  # share of draws that a clear effect beats


class Effect(NamedTuple):
    """How much greying out its chosen patches lowers the score of a label, against random parts of the same area.

    Attributes:
        file: Name of the image.
        label: Name of the class.
        score: Probability of the whole image.
        drop: By how much it falls without the chosen patches, negative if it rises.
        random_mean: Mean drop without random parts, None if there are no others, as when all of the image was chosen.
        random_sd: Their standard deviation.
        draws: Number of random parts.
        beats: Share of them whose drop is smaller than that of the chosen patches.
        area: Share of the image that is greyed out, in every draw.
    """

    file: str
    label: str
    score: float
    drop: float
    random_mean: Optional[float]
    random_sd: Optional[float]
    draws: int
    beats: Optional[float]
    area: float


def measure(model: nn.Module, explanation: Explanation, *, draws: int = 20, batch_size: int = 32) -> List[Effect]:
    """Measure the effect of the chosen patches on each label of an explanation that reaches its threshold.

    The patches of all stages that the explanation has are greyed out together. A random part is the same mask, shifted
    over the image by whole cells of the finest of these stages and wrapped around at its edges: the same area and the
    same shape. As many random patches of each stage would not be as much of the image, for chosen ones lie on each
    other and random ones do so less; and they would be scattered, which leaves something of every object.

    Grey is the mean colour of the image itself. That of the training data is often foreign to an image, so that
    the edges of the greyed patches change scores wherever these are.

    Args:
        model: The model that was explained.
        explanation: Of labels. The draws depend on the names of its file and labels, so they can be repeated.
        draws: Random parts for each label.
        batch_size: Images in a batch.

    Raises:
        ValueError: If the explanation is of a patch, or scores are not finite.
    """
    if explanation.patch is not None:
        raise ValueError('A patch has no score that could drop: explain labels to measure the effect of their choices.')
    _, _, pixels, frame = see(model, explanation.image)
    height, width = pixels.shape[2:]
    inside = image_part(frame, height, width)
    colour = mean_colour(pixels, inside)
    name = os.path.basename(explanation.file)
    effects = []
    for label in explanation.labels:
        if label.score < label.threshold:
            continue
        patches = [chosen for chosen in explanation.patches if chosen.label == label.label]
        chosen = chosen_pixels(patches, explanation.grids, height, width) & inside
        steps = [max(1, round(min(sides))) for sides in zip(*(grid.cell for grid in explanation.grids))]
        rng = np.random.default_rng(zlib.crc32(f'{name}/{label.label}'.encode()))
        masks = [np.zeros_like(chosen), chosen, *_shifted(chosen, inside, steps, draws, rng)]
        index = explanation.class_names.index(label.label)
        scores = masked_scores(model, pixels, masks, colour, batch_size)[:, index].astype(np.float64)
        drop, *others = (scores[0] - scores[1:]).tolist()
        effects.append(
            Effect(
                explanation.file,
                label.label,
                float(scores[0]),
                drop,
                float(np.mean(others)) if others else None,
                float(np.std(others, ddof=1)) if len(others) > 1 else None,
                len(others),
                float(np.mean(drop > np.array(others))) if others else None,
                float(chosen.sum() / inside.sum()),
            )
        )
    return effects


def _shifted(
    mask: np.ndarray, inside: np.ndarray, steps: Sequence[int], draws: int, rng: np.random.Generator
) -> List[np.ndarray]:
    """At most as many shifts of a mask within the image, all different from it."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    part = np.ix_(rows, columns)
    shifts = [(y, x) for y in range(0, len(rows), steps[0]) for x in range(0, len(columns), steps[1])]
    shifted: List[np.ndarray] = []
    for i in rng.permutation(len(shifts)):
        if len(shifted) == draws:
            break
        moved = mask.copy()
        moved[part] = np.roll(mask[part], shifts[i], axis=(0, 1))
        if (moved != mask).any():
            shifted.append(moved)
    return shifted


def conclude(effects: Sequence[Effect]) -> List[str]:
    """Say in sentences what effects show together."""
    compared = [effect for effect in effects if effect.draws]
    sentences = []
    if not effects:
        sentences.append('No label reaches its threshold, so there is no effect to measure.')
    if compared:
        above = np.mean([effect.drop > effect.random_mean for effect in compared])
        clearly = np.mean([effect.beats >= NEARLY_ALL for effect in compared])
        sentences.append(
            f'The chosen patches matter more than random parts do on average for {100 * above:.0f} % of '
            f'{len(compared)} confident label{"s" * (len(compared) > 1)}, and more than at least '
            f'{100 * NEARLY_ALL:.0f} % of the random parts for {100 * clearly:.0f} %.'
        )
    if without := len(effects) - len(compared):
        sentences.append(
            f'The chosen patches of {without} label{"s" * (without > 1)} cover all of the image, so that there is '
            'nothing to compare them with: take early stages alone, such as --stages 1 2.'
        )
    return sentences
