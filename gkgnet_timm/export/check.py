"""Proof that an exported file computes what PyTorch does."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from timm.data import create_transform

from ..data.decode import MODES, Decoder
from ..data.demo import draw_scene
from ..data.images import ImageFiles
from ..inference.program import Run
from .outputs import Outputs

__all__ = ['Difference', 'Expected', 'compare', 'expect', 'load_images']

OTHER_SIZES = ((224, 224), (448, 320), (576, 576))
NOISE = 10.0  # times the error of PyTorch in float32
SHARE = 0.05  # of the spread of an output, or of all neighbours


class Expected(NamedTuple):
    """Images (B, C, H, W), and what PyTorch gives for them in float32 and in float64."""

    images: torch.Tensor
    single: Dict[str, torch.Tensor]
    double: Dict[str, torch.Tensor]


class Difference(NamedTuple):
    """How far a file is from PyTorch in float32, and how far that is from float64.

    Two programs in float32 round differently, and so choose one or the other of two neighbours that are as near. Hence
    a file is judged by its distance from float64, which may be somewhat larger than that of PyTorch in float32.

    Attributes:
        logits: Largest difference of logits.
        scores: Mean difference of probabilities.
        labels: Share of scores on the same side of the threshold.
        neighbors: Share of equal neighbours, None without a label graph.
        double: Median distance of logits from float64.
        single: The same of PyTorch in float32.
        single_neighbors: Share of neighbours of PyTorch in float32 that are those in float64.
        is_right: Whether all outputs are right, for every image and every class.
    """

    logits: float
    scores: float
    labels: float
    neighbors: Optional[float]
    double: float
    single: float
    single_neighbors: Optional[float]
    is_right: bool


def load_images(model: nn.Module, config: Dict[str, Any], files: Sequence[str], count: int) -> torch.Tensor:
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
def expect(model: nn.Module, config: Dict[str, Any], files: Sequence[str], dynamic_size: bool) -> List[Expected]:
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


def _share(a: Dict[str, torch.Tensor], b: Dict[str, torch.Tensor]) -> float:
    """The share of neighbours in one that are neighbours in the other."""
    same = (a['neighbors'].unsqueeze(-1) == b['neighbors'].unsqueeze(-2)).any(-1)  # in whatever order
    return same.double().mean().item()


def _distances(given: torch.Tensor, exact: torch.Tensor) -> Tuple[float, float]:
    """The median distance of all numbers (B, D), and the largest one of an image or a column."""
    off = (given.double() - exact.double()).abs()
    return off.median().item(), max(off.median(0).values.max().item(), off.median(1).values.max().item())


def _is_near(given: List[torch.Tensor], single: List[torch.Tensor], double: List[torch.Tensor]) -> bool:
    """Whether outputs of no image and no column are further from float64 than rounding explains."""
    given, single, double = (torch.cat(batches) for batches in (given, single, double))
    worst, allowed = _distances(given, double)[1], _distances(single, double)[1]
    return bool(given.isfinite().all()) and worst <= NOISE * allowed + SHARE * double.std().item()


def compare(run: Run, expected: List[Expected], threshold: Union[float, np.ndarray]) -> Difference:
    """Compare a file with PyTorch.

    Args:
        run: Runs the file.
        expected: Results of `expect`.
        threshold: Lowest score of a label, or one for each (L,).
    """
    limit = torch.as_tensor(np.asarray(threshold, dtype=np.float32))
    given = [run(images) for images, _, _ in expected]
    single, double = [batch.single for batch in expected], [batch.double for batch in expected]

    def of(name: str) -> List[List[torch.Tensor]]:
        return [[outputs[name] for outputs in group] for group in (given, single, double)]

    logits, of_single, of_double = (torch.cat(batches) for batches in of('logits'))
    scores, scores_of_single = (torch.cat(batches) for batches in of('prediction')[:2])
    shares = [None, None]
    is_right = _is_near(*of('logits')) and _is_near(*of('embedding'))
    is_right = is_right and bool((scores - logits.sigmoid()).abs().max() < 1e-3)
    if all('neighbors' in outputs for group in (given, single) for outputs in group):
        pairs = zip(given, single), zip(single, double)
        shares = [float(np.mean([_share(*pair) for pair in group])) for group in pairs]
        is_right = is_right and 1 - shares[0] <= NOISE * (1 - shares[1]) + SHARE
    return Difference(
        logits=(logits - of_single).abs().max().item(),
        scores=(scores - scores_of_single).abs().mean().item(),
        labels=((scores >= limit) == (scores_of_single >= limit)).double().mean().item(),
        neighbors=shares[0],
        double=_distances(logits, of_double)[0],
        single=_distances(of_single, of_double)[0],
        single_neighbors=shares[1],
        is_right=is_right,
    )
