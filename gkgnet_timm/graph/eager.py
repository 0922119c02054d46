"""The graph operations in plain PyTorch, for any device and type. They can be scripted."""

from typing import Optional, Tuple

import torch

from .layout import chunk_ranges
from .selection import select

__all__ = [
    'gather_max',
    'interleave',
    'interleave_max_relative',
    'limit_neighbors',
    'scatter_to_winners',
    'search_neighbors',
]


def limit_neighbors(k: int, dilation: int, candidates: int) -> Tuple[int, int]:
    """Fit k neighbours at a dilation into a number of candidates.

    All k neighbours are kept while there are candidates for them, the dilation gives way first.

    Returns:
        Neighbours and dilation, with neighbours * dilation <= candidates.
    """
    k = min(k, candidates)
    return k, min(dilation, candidates // k)


def _unit_groups(x: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Split channels into groups and scale each group of each node to unit length: (B, N, C) -> (B * G, N, C / G)."""
    B, N, C = x.shape
    # similarities rounded to half precision tie in droves, so the search never runs below float32
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.reshape(B, N, num_groups, C // num_groups).transpose(1, 2)  # (B, N, G, C/G) -> (B, G, N, C/G)
    x = x.to(dtype, copy=True, memory_format=torch.contiguous_format)
    x.div_(torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(1e-12))
    return x.view(B * num_groups, N, C // num_groups)  # (B, G, N, C/G) -> (B * G, N, C/G)


def search_neighbors(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    dilation: int,
    num_groups: int,
    position: Optional[Tuple[torch.Tensor, torch.Tensor]],
) -> torch.Tensor:
    """The operator `knn_neighbors` in plain PyTorch, over chunks of queries."""
    B, N, C = x.shape
    M = y.shape[1]
    queries = _unit_groups(x.detach(), num_groups)  # (B * G, N, C/G)
    keys = _unit_groups(y.detach(), num_groups).transpose(1, 2)  # (B * G, C/G, M)

    # a chunk is a number of whole grid rows, so that its position term is a plain sum of the two tables
    H, W = N, 1
    row_table, col_table = keys, keys
    if position is not None:
        row_table, col_table = position[0].to(keys.dtype), position[1].to(keys.dtype)  # (H, M), (W, M)
        H, W = row_table.shape[0], col_table.shape[0]
    chunks = chunk_ranges(B * num_groups, H, W * M, 1 << 20 if x.device.type == 'cpu' else 1 << 26)
    _, grids, _, rows = chunks[0]
    buffer = queries.new_empty(grids * rows * W * M)
    neighbors = torch.empty(B * num_groups, N, k, dtype=torch.long, device=x.device)
    for first, last, start, stop in chunks:
        shape = [last - first, stop - start, W, M]
        scores = buffer[: shape[0] * shape[1] * W * M].view(shape)
        if position is not None:
            # (rows, 1, M) + (W, M) -> (graphs, rows, W, M)
            torch.add(row_table[start:stop].unsqueeze(1).expand(shape[0], -1, -1, -1), col_table, out=scores)
        scores = scores.flatten(1, 2)  # (graphs, rows, W, M) -> (graphs, rows * W, M)
        # the in-place product is one that autocast leaves alone
        scores.baddbmm_(
            queries[first:last, start * W : stop * W],
            keys[first:last],
            beta=0 if position is None else 1,
            alpha=2,
        )
        nearest = select(scores, (k - 1) * dilation + 1)[:, :, ::dilation]  # (graphs, rows * W, k)
        neighbors[first:last, start * W : stop * W] = nearest
    return neighbors.view(B, num_groups, N, k)


def gather_max(y: torch.Tensor, neighbors: torch.Tensor, keep_winner: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """The largest neighbour per channel, by k gathers of whole rows: nothing of size (N, k, C) is held.

    Args:
        y: Candidates (B, M, C).
        neighbors: Indices into M per channel group (B, G, N, k).
        keep_winner: Whether to return which candidate each number is from.

    Returns:
        Largest neighbours (B, N, C), without gradient, and their indices into M (B, N, C) or nothing (0,), int32.
    """
    B, M, C = y.shape
    G, N, k = neighbors.shape[1], neighbors.shape[2], neighbors.shape[3]
    rows = y.detach().reshape(B * M * G, C // G)  # group g of candidate j of image b is row (b * M + j) * G + g
    image = torch.arange(B, device=y.device).view(B, 1, 1, 1)
    group = torch.arange(G, device=y.device).view(1, G, 1, 1)
    index = (neighbors + image * M) * G + group  # (B, G, N, k)
    index = index.permute(3, 0, 2, 1).reshape(k, B * N * G)  # (B, G, N, k) -> (k, B, N, G) -> (k, B * N * G)
    candidates = neighbors.to(torch.int32).permute(3, 0, 2, 1).reshape(k, B * N * G, 1)

    largest = rows.index_select(0, index[0])  # (B * N * G, C/G)
    winner = candidates[0].expand(-1, C // G) if keep_winner else candidates[0, :0]
    # one buffer for all gathers: fresh memory for each would cost more than the gather
    gathered = torch.empty_like(largest)
    for j in range(1, k):
        torch.index_select(rows, 0, index[j], out=gathered)
        if keep_winner:
            larger = (gathered > largest) | gathered.isnan()  # the first of equals stays, NaN spreads
            winner = torch.where(larger, candidates[j], winner)
        torch.maximum(largest, gathered, out=largest)
    return largest.view(B, N, C), winner.reshape(B, N, C) if keep_winner else winner.view(0)


def interleave(x: torch.Tensor, relative: torch.Tensor) -> torch.Tensor:
    """Alternate the channels of nodes and aggregated neighbours, x_0, m_0, x_1, ...: 2 x (B, N, C) -> (B, N, 2C)."""
    return torch.stack((x, relative), dim=-1).flatten(2)


def interleave_max_relative(
    x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor, keep_winner: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The operator of this name in plain PyTorch, with the gradient of plain PyTorch if winners are kept."""
    largest, winner = gather_max(y, neighbors, keep_winner)
    if torch.is_grad_enabled() and y.requires_grad:
        largest = y.gather(1, winner.long())
    return interleave(x, largest - x), winner


def scatter_to_winners(grad: torch.Tensor, winner: torch.Tensor, candidates: int) -> torch.Tensor:
    """The operator of this name in plain PyTorch."""
    B, N, C = grad.shape
    out = grad.new_zeros(B, candidates, C, dtype=torch.promote_types(grad.dtype, torch.float32))
    image = torch.arange(B, device=grad.device).view(B, 1, 1)
    place = (winner + image * candidates) * C + torch.arange(C, device=grad.device)  # (B, N, C)
    # in one dimension it is deterministic on a GPU where that is asked for
    out.view(-1).scatter_add_(0, place.reshape(-1), grad.to(out.dtype).reshape(-1))
    return out
