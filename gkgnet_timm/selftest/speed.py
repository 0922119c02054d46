"""The speed of search, aggregation and whole models on a device, beside plain PyTorch: the dense graph."""

import statistics
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import torch

from ..benchmark.case import Case, create_model, create_step
from ..benchmark.floor import seconds_of
from ..benchmark.grid import benchmark_models
from ..graph import interleave_max_relative, knn_neighbors
from ..graph.dense import dense_max_relative, dense_neighbors
from ..graph.eager import interleave
from ..layers.position import relative_position_tables
from .finding import NOTE, OK, Finding, Found, attempt

__all__ = ['CPU', 'GPU', 'TIMED', 'Load', 'check_speed', 'measure_at_length']

TIMED = ('cpu', 'cuda')  # kinds of devices for which the end of work is known
REPEAT, MOST_SECONDS = 5, 3.0  # of a comparison
GROUPS, NEIGHBORS, CHANNELS, REDUCTION = 2, 9, 80, 4  # of the first stage


class Load(NamedTuple):
    """A model, the side of its images, and how many there are in a pass and in a training step."""

    model: str
    img_size: int
    inference: int
    training: int


CPU, GPU = Load('gkgnet_224', 224, 1, 2), Load('gkgnet_448', 448, 16, 16)


def _medians(steps: Dict[str, Callable[[], Any]], device: torch.device) -> Dict[str, float]:
    """Median milliseconds of steps that take turns, after some to warm up. On a slow machine there are fewer turns."""
    seconds: Dict[str, List[float]] = {name: [] for name in steps}
    for turn in range(-1 if device.type == 'cpu' else -4, REPEAT):
        for name, step in steps.items():
            passed = seconds_of(step, str(device))
            if turn >= 0:
                seconds[name].append(passed)
        if sum(map(sum, seconds.values())) > MOST_SECONDS:
            break
    return {name: 1e3 * statistics.median(passed) for name, passed in seconds.items()}


def _words(milliseconds: float) -> str:
    return f'{milliseconds:,.0f} ms' if milliseconds >= 100 else f'{milliseconds:.3g} ms'


def _judge(milliseconds: Dict[str, float]) -> Found:
    """Compare each of `float32`, `bfloat16`, ... with `dense float32`, `dense bfloat16`, ..."""
    parts, ratios = [], {}
    for name, own in milliseconds.items():
        if not name.startswith('dense '):
            dense = milliseconds[f'dense {name}']
            ratios[name] = dense / own
            parts.append(f'{name} {_words(own)}, dense graph {_words(dense)} ({ratios[name]:.2g} x)')
    figures = dict(milliseconds=milliseconds, dense_over_own=ratios)
    return OK if min(ratios.values()) > 1 else NOTE, '; '.join(parts), figures


def _search(device: torch.device, load: Load) -> Found:
    side, dtypes = load.img_size // 4, (torch.float32, torch.bfloat16)
    position = relative_position_tables(side, side, CHANNELS, REDUCTION, device=device)
    matrix = -(position[0].unsqueeze(1) + position[1]).flatten(0, 1)  # (H, 1, M) + (W, M) -> (N, M)
    steps: Dict[str, Callable[[], Any]] = {}
    for dtype in dtypes:
        name = str(dtype).removeprefix('torch.')
        x, y = (torch.randn(load.inference, n, CHANNELS, device=device).to(dtype) for n in matrix.shape)
        steps[name] = lambda x=x, y=y: knn_neighbors(x, y, NEIGHBORS, 1, GROUPS, position)
        steps[f'dense {name}'] = lambda x=x, y=y: dense_neighbors(x, y, NEIGHBORS, 1, GROUPS, matrix)
    return _judge(_medians(steps, device))


def _aggregation(device: torch.device, load: Load) -> Found:
    nodes = (load.img_size // 4) ** 2
    candidates = nodes // REDUCTION**2
    shape = (load.inference, GROUPS, nodes, min(NEIGHBORS, candidates))
    neighbors = torch.randint(candidates, shape, device=device)
    steps: Dict[str, Callable[[], Any]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix('torch.')
        x, y = (
            torch.randn(load.inference, n, CHANNELS, device=device).to(dtype).requires_grad_()
            for n in (nodes, candidates)
        )
        weight = torch.ones(load.inference, nodes, 2 * CHANNELS, device=device, dtype=dtype)

        def own(x=x, y=y, weight=weight):
            torch.autograd.grad(interleave_max_relative(x, y, neighbors), (x, y), weight)

        def dense(x=x, y=y, weight=weight):
            torch.autograd.grad(interleave(x, dense_max_relative(x, y, neighbors)), (x, y), weight)

        steps[name], steps[f'dense {name}'] = own, dense
    return _judge(_medians(steps, device))


def _model(device: torch.device, load: Load, is_training: bool) -> Found:
    steps: Dict[str, Callable[[], Any]] = {}
    batch = load.training if is_training else load.inference
    for dtype in ('float32', 'bfloat16'):
        for mode in ('eager', 'dense'):
            case = Case(load.model, load.img_size, batch, dtype, str(device), mode=mode, is_training=is_training)
            steps[dtype if mode == 'eager' else f'dense {dtype}'] = create_step(case, create_model(case))
    return _judge(_medians(steps, device))


def check_speed(device: torch.device, load: Load) -> Iterator[Finding]:
    """Time ours and the dense graph in turn. Slower is no failure: the machine may be at work for others."""
    if device.type not in TIMED:
        yield Finding('speed', NOTE, f'it is not measured on {device.type}')
        return
    of = f'{load.img_size} px, batch'
    yield attempt(f'speed of search, {of} {load.inference}', _search, device, load)
    yield attempt(f'speed of aggregation with gradient, {of} {load.inference}', _aggregation, device, load)
    yield attempt(f'speed of {load.model}, inference, {of} {load.inference}', _model, device, load, False)
    yield attempt(f'speed of {load.model}, training step, {of} {load.training}', _model, device, load, True)


def measure_at_length(device: torch.device) -> Iterator[List[Dict[str, Any]]]:
    """Yield rows of `benchmark_models`: all figures that tell whether a device is used well.

    On a GPU 16 images in bfloat16, eager, compiled and as CUDA graphs; elsewhere one image in float32 and bfloat16.
    """
    on_gpu = device.type == 'cuda'
    common: Dict[str, Any] = dict(
        batch_sizes=[16 if on_gpu else 1],
        dtypes=['bfloat16'] if on_gpu else ['float32', 'bfloat16'],
        device=str(device),
        backend='inductor' if on_gpu else None,
        with_replayed=on_gpu,
    )
    for is_training in (False, True):
        for name, compare in (('gkgnet_448', ['tresnet_l'] * (not is_training)), ('gkgnet_576', [])):
            yield benchmark_models([name], compare=compare, is_training=is_training, **common)[0]
