"""A small model on a device against its own dense form on the CPU in float64, and against itself."""

import copy
from typing import Iterator, List, NamedTuple, Tuple

import torch
import torch.nn as nn
from torch.optim.swa_utils import update_bn

from ..benchmark.case import create_timm_model
from ..benchmark.dense_model import use_dense_graph
from ..layers.block import GraphConv
from ..loss import GKGNetLoss
from .finding import FAIL, NOTE, OK, Finding, Found, attempt
from .kernels import has_type

__all__ = ['check_network', 'check_repeatability', 'create_network']

NAME, CLASSES = 'gkgnet_ti_224', 80
ROUNDING = 1e-4  # of logits, where no neighbours swap
BATCH = 8  # of the comparison with single images
BRANCH = 0.2  # gain of residual branches: at 1, as in a fresh model, one rounding may change everything


class Limit(NamedTuple):
    """Largest error of a type, as a share of the norm, some twenty times and some seven times what is usual.

    Rounding alone makes another neighbour the largest now and then, and the gradient goes to that.
    """

    logits: float
    gradient: float


LIMITS = {torch.float32: Limit(1e-4, 0.01), torch.bfloat16: Limit(0.1, 0.3)}


def create_network(img_size: int) -> Tuple[nn.Module, torch.Tensor]:
    """The same model on every machine, with norms as after training, and images."""
    model = create_timm_model(NAME, img_size, CLASSES)
    for name, parameter in model.named_parameters():
        if name.endswith('.fc2.bn.weight'):  # the end of a branch
            nn.init.constant_(parameter, BRANCH)
    images = torch.randn(BATCH, 3, img_size, img_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        update_bn([images], model)
    return model.eval(), images


class _SameGraph:
    """Lets an oracle take the neighbours that a model chooses, and counts those that it would not have chosen.

    Without it, two neighbours that swap for a rounding would change all that follows.
    """

    def __init__(self, model: nn.Module, oracle: nn.Module):
        self.chosen, self.other = 0, 0
        for own, wide in zip(model.modules(), oracle.modules()):
            if isinstance(own, GraphConv):
                self._join(own, wide)

    def _join(self, own: GraphConv, wide: GraphConv) -> None:
        search, search_wide = own.search, wide.search
        kept: List[torch.Tensor] = []

        def choose(*args):
            kept.append(search(*args))
            return kept[-1]

        def follow(*args):
            neighbors = kept.pop().cpu()
            self.chosen += neighbors.numel()
            self.other += int((search_wide(*args) != neighbors).sum())
            return neighbors

        own.search, wide.search = choose, follow


def _error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference as a share of the norm. Not finite if either is not."""
    return ((actual.cpu().double() - expected).norm() / expected.norm()).item()


def _compare(
    model: nn.Module, images: torch.Tensor, device: torch.device, dtype: torch.dtype, is_training: bool
) -> Found:
    """Compare the logits of a pass, or the gradient of all weights after a training step, with those in float64."""
    oracle = use_dense_graph(copy.deepcopy(model)).double().train(is_training)
    model = copy.deepcopy(model).to(device).train(is_training)
    graph = _SameGraph(model, oracle)
    target = (torch.arange(CLASSES) % 20 == 0).double().expand(len(images), -1)
    results = []
    # TF32 is not float32
    with torch.set_grad_enabled(is_training), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for network, x, y in ((model, images.to(device), target.float().to(device)), (oracle, images.double(), target)):
            with torch.autocast(x.device.type, dtype, enabled=network is model and dtype != torch.float32):
                logits = network(x)
            if is_training:
                GKGNetLoss()(logits, y).backward()
                logits = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
            results.append(logits)
    error = _error(*results)
    what = 'gradient' if is_training else 'logits'
    limit = getattr(LIMITS[dtype], what)
    figures = dict(error=error, limit=limit, neighbors=graph.chosen, other_neighbors=graph.other)
    text = f'{what} off by {error:.1e} of their norm (limit {limit:g})'
    if dtype == torch.float32:
        text += f', {graph.other:,} of {graph.chosen:,} neighbours differ'
    return OK if error <= limit else FAIL, text, figures


def check_network(device: torch.device, model: nn.Module, images: torch.Tensor) -> Iterator[Finding]:
    """Check inference and a training step in float32 and in bfloat16 by autocast."""
    for dtype in LIMITS:
        name = 'float32' if dtype == torch.float32 else 'bfloat16 autocast'
        if not has_type(dtype, device):
            yield Finding(f'{NAME}, {name}', NOTE, 'the device does not have this type')
            continue
        for what, is_training in (('inference', False), ('training step', True)):
            check = f'{what} against float64, {name}'
            yield attempt(check, _compare, model, images[:4], device, dtype, is_training)


def _differences(scores: torch.Tensor, others: torch.Tensor) -> Found:
    difference = (scores - others).abs()
    count, other, largest = difference.numel(), int((difference != 0).sum()), difference.max().item()
    beyond = int((difference.amax(1) > ROUNDING).sum())
    figures = dict(logits=count, other=other, difference=largest, images=len(scores), images_beyond_rounding=beyond)
    if not other:
        return OK, f'all {count} logits are the same', figures
    text = f'{other} of {count} logits differ, in {beyond} of {len(scores)} images by more than {ROUNDING:g}'
    return NOTE, f'{text}, at most by {largest:.1e}; their standard deviation is {scores.std():.1e}', figures


def _threads(model: nn.Module, images: torch.Tensor) -> Found:
    threads = torch.get_num_threads()
    with torch.inference_mode():
        scores = model(images)
        torch.set_num_threads(1)
        try:
            return _differences(scores, model(images))
        finally:
            torch.set_num_threads(threads)


def _batches(model: nn.Module, images: torch.Tensor) -> Found:
    with torch.inference_mode():
        return _differences(model(images), torch.cat([model(image) for image in images.split(1)]))


def check_repeatability(device: torch.device, model: nn.Module, images: torch.Tensor) -> Iterator[Finding]:
    """Tell whether the scores of the model depend on the number of threads or of images in a batch."""
    model, images = copy.deepcopy(model).to(device), images.to(device)
    threads = torch.get_num_threads()
    if device.type == 'cpu' and threads > 1:
        yield attempt(f'1 thread against {threads}, float32', _threads, model, images)
    yield attempt(f'batches of 1 against {BATCH}, float32', _batches, model, images)
