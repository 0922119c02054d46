"""The search and the aggregation of a device against the dense oracle, which works on the CPU in float64."""

from typing import Iterator, Optional, Sequence, Tuple

import torch

from ..graph import interleave_max_relative, knn_neighbors
from ..graph.dense import dense_max_relative, dense_neighbors
from ..graph.eager import limit_neighbors
from ..graph.similarity import neighbor_similarity
from .finding import FAIL, NOTE, OK, Finding, Found, attempt
from .shapes import SHAPES, Nodes, Shape, make_nodes

__all__ = ['TYPES', 'check_kernels', 'has_type']

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROUNDING = {torch.float64: 1e-12}  # of scores up to 4 or so; half precision is multiplied in float32
ROUNDING_FLOAT32 = 1e-5


def has_type(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device multiplies matrices of a type."""
    try:
        ones = torch.ones(2, 2, dtype=dtype, device=device)
        return bool((ones @ ones).sum() == 8)
    except (TypeError, RuntimeError):  # as Metal for float64
        return False


def _term(nodes: Nodes) -> torch.Tensor:
    """The position of all pairs (N, M) in float64, or 0."""
    if nodes.position is None:
        return torch.zeros((), dtype=torch.float64)
    row_table, col_table = (table.cpu().double() for table in nodes.position)
    return (row_table.unsqueeze(1) + col_table).flatten(0, 1)  # (H, 1, M) + (W, M) -> (N, M)


def _scores(nodes: Nodes, neighbors: torch.Tensor) -> torch.Tensor:
    """What the search ranks, in float64, for each neighbour (B, G, N, k)."""
    x, y = nodes.x.cpu().double(), nodes.y.cpu().double()
    term = _term(nodes).expand(*neighbors.shape[:3], y.shape[1])  # (B, G, N, M)
    return 2 * neighbor_similarity(x, y, neighbors) + term.gather(3, neighbors)


def _in_exact_order(nodes: Nodes, shape: Shape) -> torch.Tensor:
    """The neighbours of nodes with exact scores: of equal ones the lower index comes first."""
    B, N, _ = nodes.x.shape
    M = shape.candidates
    everyone = torch.arange(M).expand(B, shape.groups, N, M)
    k, dilation = limit_neighbors(shape.k, shape.dilation, M)
    order = _scores(nodes, everyone).sort(dim=3, descending=True, stable=True).indices
    return order[..., : k * dilation : dilation]


def _compare(shape: Shape, dtype: torch.dtype, device: torch.device) -> Tuple[float, int, int]:
    """Search a shape.

    Returns:
        The largest difference of a score from that of the oracle, nan for neighbours that are none; the number of
        neighbours with exact scores, and how many of these are not those of the lowest index.
    """
    nodes = make_nodes(shape, dtype, device)
    found = knn_neighbors(nodes.x, nodes.y, shape.k, shape.dilation, shape.groups, nodes.position).cpu()
    wide = (nodes.x.cpu().double(), nodes.y.cpu().double())
    position = None if nodes.position is None else -_term(nodes)
    expected = dense_neighbors(*wide, shape.k, shape.dilation, shape.groups, position)
    is_valid = found.shape == expected.shape and found.min() >= 0 and found.max() < shape.candidates
    if not is_valid or (found.sort(dim=3).values.diff(dim=3) == 0).any():
        return float('nan'), 0, 0
    difference = (_scores(nodes, found) - _scores(nodes, expected)).abs().max().item()
    if shape.form != 'equal':
        return difference, 0, 0
    return difference, found.numel(), int((found != _in_exact_order(nodes, shape)).sum())


def _search(shapes: Sequence[Shape], dtype: torch.dtype, device: torch.device) -> Found:
    worst, wrong, tied, moved = 0.0, [], 0, 0
    for shape in shapes:
        difference, exact, other = _compare(shape, dtype, device)
        tied, moved = tied + exact, moved + other
        rounding = 0.0 if shape.form == 'equal' else ROUNDING.get(dtype, ROUNDING_FLOAT32)
        if not difference <= rounding:
            wrong.append((shape, difference))
        worst = max(worst, difference)
    figures = dict(shapes=len(shapes), wrong=len(wrong), difference=worst, tied=tied, ties_in_another_order=moved)
    if wrong:
        shape, difference = wrong[0]
        what = 'no valid neighbours' if difference != difference else f'scores off by {difference:.1e}'
        return FAIL, f'{len(wrong)} of {len(shapes)} shapes, {what} for {shape}', figures
    return OK, f'{len(shapes)} shapes, scores of the neighbours off by at most {worst:.1g}', figures


def _first_winners(y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """The candidate of each maximum, the first of equals: (B, M, C) and (B, G, N, k) -> (B, N, C)."""
    B, G, N, k = neighbors.shape
    groups = y.unflatten(2, (G, -1)).transpose(1, 2)  # (B, M, C) -> (B, G, M, C/G)
    index = neighbors.flatten(2).unsqueeze(-1).expand(-1, -1, -1, groups.shape[-1])  # (B, G, N * k, C/G)
    gathered = groups.gather(2, index).unflatten(2, (N, k))  # (B, G, N, k, C/G)
    place = torch.arange(k).view(k, 1).where(gathered == gathered.amax(3, keepdim=True), k).amin(3)  # (B, G, N, C/G)
    return neighbors.gather(3, place).transpose(1, 2).flatten(2)  # (B, G, N, C/G) -> (B, N, C)


def _wrong_part(shape: Shape, dtype: torch.dtype, device: torch.device) -> Optional[str]:
    """Aggregate a shape and return what is wrong: values, the gradient of queries, or that of candidates.

    Nothing is rounded but the values, so that all have to be equal bit for bit: candidates and gradients are small
    integers. Few integers, so that many candidates are equal.
    """
    x, y, _ = make_nodes(shape, dtype, device)
    y = (2 * y).round()
    generator = torch.Generator().manual_seed(1)
    size = (shape.batch, shape.groups, x.shape[1], shape.candidates)
    neighbors = torch.rand(size, generator=generator).argsort(-1)[..., : shape.k]
    weight = torch.randint(-8, 9, (*x.shape[:2], 2 * x.shape[2]), generator=generator)
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    out = interleave_max_relative(x, y, neighbors.to(device))
    grad_x, grad_y = torch.autograd.grad(out, (x, y), weight.to(device, dtype))
    x, y, own = x.detach().cpu(), y.detach().cpu(), weight[..., ::2] - weight[..., 1::2]
    out = out.detach().cpu()
    if not (torch.equal(out[..., ::2], x) and torch.equal(out[..., 1::2], dense_max_relative(x, y, neighbors))):
        return 'values'
    if not torch.equal(grad_x.cpu(), own.to(dtype)):
        return 'the gradient of queries'
    expected = torch.zeros(y.shape, dtype=torch.float64)
    expected.scatter_add_(1, _first_winners(y, neighbors), weight[..., 1::2].double())
    return None if torch.equal(grad_y.cpu(), expected.to(dtype)) else 'the gradient of candidates'


def _aggregation(shapes: Sequence[Shape], dtype: torch.dtype, device: torch.device) -> Found:
    wrong = [(shape, part) for shape in shapes if (part := _wrong_part(shape, dtype, device))]
    figures = dict(shapes=len(shapes), wrong=len(wrong))
    if wrong:
        shape, part = wrong[0]
        return FAIL, f'{len(wrong)} of {len(shapes)} shapes, {part} of {shape}', figures
    return OK, f'{len(shapes)} shapes, values and gradients bit for bit', figures


def check_kernels(device: torch.device, shapes: Sequence[Shape] = SHAPES) -> Iterator[Finding]:
    """Check search and aggregation in all types that a device has."""
    searches = []
    for dtype in TYPES:
        name = str(dtype).removeprefix('torch.')
        if not has_type(dtype, device):
            yield Finding(f'kernels, {name}', NOTE, 'the device does not have this type')
            continue
        searches.append(attempt(f'search, {name}', _search, shapes, dtype, device))
        yield searches[-1]
        yield attempt(f'aggregation, {name}', _aggregation, shapes, dtype, device)
    keys = ('tied', 'ties_in_another_order')
    tied, moved = (sum(finding.figures.get(key, 0) for finding in searches) for key in keys)
    text = f'{moved:,} of {tied:,} neighbours of equal scores are not those of the lowest index'
    verdict = FAIL if moved else OK if tied else NOTE  # without any nothing was compared
    yield Finding('order of equal scores', verdict, text, dict(zip(keys, (tied, moved))))
