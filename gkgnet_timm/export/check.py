"""Proof that an exported file computes what PyTorch does."""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from timm.data import create_transform

from ..data.decode import MODES, Decoder
from ..data.demo import draw_scene
from ..data.images import ImageFiles
from ..inference.program import Run
from .outputs import Outputs

__all__ = ['Difference', 'Expected', 'compare', 'expect', 'has_right_neighbors', 'load_images']

OTHER_SIZES = ((224, 224), (448, 320), (576, 576))
NOISE = 10.0  # times the error of PyTorch in float32
SHARE = 0.01  # of the spread of the logits, or of all neighbours


class Expected(NamedTuple):
    """Images (B, C, H, W), and what PyTorch gives for them in float32 and in float64."""

    images: torch.Tensor
    single: Dict[str, torch.Tensor]
    double: Dict[str, torch.Tensor]


class Difference(NamedTuple):
    """How far a file is from PyTorch in float32, and how far that is from float64.

    Two programs in float32 round differently, and so choose one or the other of two neighbours that are as near. Hence
    a file is judged by its distance from float64, which may be somewhat larger than that of PyTorch in float32.
    """

    logits: float  # largest difference
    scores: float  # mean difference of probabilities
    labels: float  # share of scores on the same side of the threshold
    neighbors: Optional[float]  # share of equal neighbours, None without a label graph
    double: float  # median distance of logits from float64
    single: float  # that of PyTorch in float32
    single_neighbors: Optional[float]  # share of neighbours of PyTorch in float32 that are those in float64
    is_right: bool


def load_images(model: nn.Module, config: dict, files: Sequence[str], count: int) -> torch.Tensor:
    """Normalised images (B, C, H, W), spread over files, or drawn ones without files.

    Args:
        model: Model whose `pretrained_cfg` says how images were read in training.
        config: Preprocessing.
        files: Image files.
        count: Number of images.

    Raises:
        ValueError: If a file cannot be read as an image.
    """
    transform = create_transform(**config)
    mode = MODES[config['input_size'][0]]
    if not files:
        scenes = (draw_scene(np.random.default_rng((7, i)))[0].convert(mode) for i in range(count))
        return torch.stack([transform(scene) for scene in scenes])
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]  # again and again, if there are few
    images = []
    decoder = Decoder(mode=mode).for_model(model.pretrained_cfg)
    for file, (image, error) in zip(chosen, ImageFiles(chosen, transform, decoder)):
        if error:
            raise ValueError(f'Cannot read image {file!r}: {error}')
        images.append(image)
    return torch.stack(images)


@torch.inference_mode()
def expect(model: nn.Module, config: dict, files: Sequence[str], dynamic_size: bool) -> List[Expected]:
    """Batches of one and of three images at the size of a model, of other sizes if it takes any, and what it gives.

    Raises:
        ValueError: If the model gives nan or infinite logits, or an image cannot be read.
    """
    outputs, exact = Outputs(model), Outputs(model, torch.float64)
    own: Tuple[int, int] = tuple(config['input_size'][1:])
    sizes = [(own, (1, 3))]
    if dynamic_size:
        sizes += [(size, (1, 2)) for size in OTHER_SIZES if size != own]
    expected = []
    for size, batches in sizes:
        images = load_images(model, dict(config, input_size=(config['input_size'][0], *size)), files, sum(batches))
        for batch in images.split(batches):
            expected.append(Expected(batch, outputs(batch), exact(batch)))
    if not all(single['logits'].isfinite().all() for _, single, _ in expected):
        raise ValueError('The model gives logits that are not finite: its weights are broken.')
    return expected


def _share(a: Dict[str, torch.Tensor], b: Dict[str, torch.Tensor]) -> Optional[float]:
    if 'neighbors' not in a or 'neighbors' not in b:
        return None
    same = (a['neighbors'].unsqueeze(-1) == b['neighbors'].unsqueeze(-2)).any(-1)  # in whatever order
    return same.double().mean().item()


def has_right_neighbors(found: Difference) -> bool:
    """Whether no more neighbours differ than rounding explains: wrong ones may move the logits by little."""
    if found.neighbors is None or found.single_neighbors is None:
        return True
    return 1 - found.neighbors <= NOISE * (1 - found.single_neighbors) + SHARE


def compare(run: Run, expected: List[Expected], threshold: Union[float, np.ndarray]) -> Difference:
    """Compare a file with PyTorch.

    Args:
        run: Runs the file.
        expected: Results of `expect`.
        threshold: Lowest score of a label, or one for each (L,).
    """
    rows = []
    limit = torch.as_tensor(np.asarray(threshold, dtype=np.float32))
    for images, single, double in expected:
        given = run(images)
        scores = given['prediction']
        logits, of_single, of_double = (outputs['logits'].double() for outputs in (given, single, double))
        rows.append(
            Difference(
                logits=(logits - of_single).abs().max().item(),
                scores=(scores - single['prediction']).abs().mean().item(),
                labels=((scores >= limit) == (single['prediction'] >= limit)).double().mean().item(),
                neighbors=_share(given, single),
                double=(logits - of_double).abs().median().item(),
                single=(of_single - of_double).abs().median().item(),
                single_neighbors=_share(single, double) if 'neighbors' in given else None,
                is_right=bool(logits.isfinite().all()),
            )
        )
    spread = torch.cat([double['logits'] for _, _, double in expected]).std().item()
    means = [None if rows[0][i] is None else sum(row[i] for row in rows) / len(rows) for i in range(7)]
    total = Difference(*means, all(row.is_right for row in rows))._replace(logits=max(row.logits for row in rows))
    is_near = total.double <= NOISE * total.single + SHARE * spread
    return total._replace(is_right=total.is_right and is_near and has_right_neighbors(total))
