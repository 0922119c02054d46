"""Graph operations of Pyramid ViG and GKGNet, as pure functions on node tensors.

A node tensor is (batch, nodes, channels), so that the features of one node are one row in memory. Shapes use
B batch, N query nodes, M candidate nodes, C channels, G groups, k neighbours, H x W the grid of the queries.

Papers: GKGNet, arXiv 2308.14378, section 3 (Group KNN, cross-level graph); Vision GNN, arXiv 2206.00272, section 3.

Nodes on a GPU go through the kernels of `gkgnet_timm.ops`, all others through the eager functions here. The obvious
versions, which hold every distance and every gathered neighbour, are in `gkgnet_timm.dense`.
"""

from typing import List, Optional, Tuple

import torch

from timm.models import register_notrace_function

from . import cpu_kernels, ops
from .selection import select

__all__ = [
    'chunk_ranges',
    'interleave',
    'interleave_max_relative',
    'knn_neighbors',
    'limit_neighbors',
    'max_relative',
    'to_map',
    'to_nodes',
]


def to_nodes(x: torch.Tensor) -> torch.Tensor:
    """Nodes of a feature map: (B, C, H, W) -> (B, H * W, C).

    By way of (B, H, W, C), as is `to_map`: the strides are then those of channels_last whatever the sizes. A single
    image or column has other strides after flatten(2).transpose(1, 2), which fit two memory formats, and on the CPU the
    backward passes of BatchNorm and of grouped convolutions read them wrong: their gradients are false.
    """
    B, C, H, W = x.shape
    return x.permute(0, 2, 3, 1).reshape(B, H * W, C)  # (B, C, H, W) -> (B, H, W, C) -> (B, H * W, C)


def to_map(nodes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Feature map of nodes: (B, height * width, C) -> (B, C, height, width)."""
    B, _, C = nodes.shape
    return nodes.reshape(B, height, width, C).permute(0, 3, 1, 2)  # (B, H * W, C) -> (B, H, W, C) -> (B, C, H, W)


def chunk_ranges(batch_size: int, rows: int, row_size: int, budget: int) -> List[Tuple[int, int, int, int]]:
    """Split a batch of grids into chunks of whole grids, or each grid into chunks of whole rows.

    On a CPU a chunk has to stay in cache from one operation to the next, elsewhere it only bounds memory.

    Args:
        batch_size: Number of grids.
        rows: Rows of a grid.
        row_size: Numbers in a row.
        budget: Numbers in a chunk, unless one row has more.

    Returns:
        The first and last grid, the first and last row of each chunk; the last ones are not part of it.
    """
    grids = min(batch_size, max(1, budget // (rows * row_size)))
    height = min(rows, max(1, budget // row_size))
    # as many chunks as that takes, of about one size
    grids = -(-batch_size // -(-batch_size // grids))
    height = -(-rows // -(-rows // height))
    chunks: List[Tuple[int, int, int, int]] = []
    for first in range(0, batch_size, grids):
        for start in range(0, rows, height):
            chunks.append((first, min(first + grids, batch_size), start, min(start + height, rows)))
    return chunks


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
    """`knn_neighbors` in eager PyTorch, over chunks of queries, for k and dilation that fit."""
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


@register_notrace_function
def knn_neighbors(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    dilation: int = 1,
    num_groups: int = 1,
    position: Optional[Tuple[torch.Tensor, torch.Tensor]] = None,
) -> torch.Tensor:
    """k nearest candidates of every query, separately in every channel group (GKGNet, section 3.2, Group KNN).

    Nearest means smallest |x|^2 - 2 x.y + |y|^2 - position between the L2-normalised groups. The norms are 1, so
    2 x.y + position is ranked. The N x M of them are never held at once, and no gradient goes through the search.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        k: Number of neighbours; all M when there are fewer.
        dilation: Keep every dilation-th of the k * dilation nearest; shortened when M is smaller than that.
        num_groups: Number of contiguous channel groups G, each with a graph of its own. 1 is the graph of ViG.
        position: The tables (H, M) and (W, M) of `gkgnet_timm.position.relative_position_tables`, N = H * W.

    Returns:
        Indices of the candidates (B, G, N, min(k, M)), nearest first.
    """
    k, dilation = limit_neighbors(k, dilation, y.shape[1])
    if not torch.jit.is_scripting():
        if ops.kernels_apply(x, y) and (k - 1) * dilation < ops.MAX_NEAREST:
            row_table, col_table = (None, None) if position is None else position
            return ops.knn_neighbors(x.detach(), y.detach(), k, dilation, num_groups, row_table, col_table)
    return search_neighbors(x, y, k, dilation, num_groups, position)


def gather_max(rows: torch.Tensor, neighbors: torch.Tensor, keep_winner: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """The largest neighbour per channel, by k gathers of whole rows: nothing of size (N, k, C) is held.

    Args:
        rows: Groups of candidates (B * M * G, C / G): group g of candidate j of image b is row (b * M + j) * G + g.
        neighbors: Indices into M per channel group (B, G, N, k).
        keep_winner: Whether the row is wanted for each channel.

    Returns:
        Largest neighbours (B * N * G, C / G), and the rows that they are from, of the same shape if kept.
    """
    B, G, N, k = neighbors.shape
    M = rows.shape[0] // (B * G)
    source = rows.detach()
    image = torch.arange(B, device=rows.device).view(B, 1, 1, 1)
    group = torch.arange(G, device=rows.device).view(1, G, 1, 1)
    index = (neighbors + image * M) * G + group  # (B, G, N, k)
    index = index.permute(3, 0, 2, 1).reshape(k, B * N * G)  # (B, G, N, k) -> (k, B, N, G) -> (k, B * N * G)

    largest = source.index_select(0, index[0])  # (B * N * G, C/G)
    winner = index[0].unsqueeze(1)
    if keep_winner:
        winner = winner.repeat(1, source.shape[1])
    # one buffer for all gathers: fresh memory for each would cost more than the gather
    gathered = torch.empty_like(largest)
    for j in range(1, k):
        torch.index_select(source, 0, index[j], out=gathered)
        if keep_winner:
            winner = torch.where(gathered > largest, index[j].unsqueeze(1), winner)
        torch.maximum(largest, gathered, out=largest)
    return largest, winner


@register_notrace_function
def max_relative(x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """Max-relative aggregation: per channel the largest y_j - x_i over the neighbours j of i (ViG, section 3.1).

    Subtraction is monotone, so this is (max_j y_j) - x_i, bit for bit, and the maximum runs over k gathers of whole
    rows: nothing of size (N, k, C) is held. For the backward pass the index of the largest neighbour is kept.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        neighbors: Indices into M per channel group (B, G, N, k).

    Returns:
        Aggregated features (B, N, C).
    """
    keep_winner = torch.is_grad_enabled() and y.requires_grad
    if not torch.jit.is_scripting():
        if ops.kernels_apply(x, y):
            return ops.max_relative(x, y, neighbors, keep_winner)[0]
    B, N, C = x.shape
    G = neighbors.shape[1]
    rows = y.reshape(-1, C // G)  # (B, M, C) -> (B * M * G, C/G)
    largest, winner = gather_max(rows, neighbors, keep_winner)
    if keep_winner:
        largest = rows.gather(0, winner)
    return largest.view(B, N, C) - x


def interleave(x: torch.Tensor, relative: torch.Tensor) -> torch.Tensor:
    """Alternate the channels of nodes and aggregated neighbours, x_0, m_0, x_1, ...: 2 x (B, N, C) -> (B, N, 2C)."""
    return torch.stack((x, relative), dim=-1).flatten(2)


@register_notrace_function
def interleave_max_relative(x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """Nodes and what their neighbours are more than them, channels in turn: (B, N, 2C), input of a graph convolution.

    Args are those of `max_relative`. In inference on a CPU it is one kernel.
    """
    if not torch.jit.is_scripting():
        is_differentiated = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
        if not is_differentiated and not ops.kernels_apply(x, y) and cpu_kernels.kernels_apply(x, y):
            return cpu_kernels.interleave_max_relative(x, y, neighbors)
    return interleave(x, max_relative(x, y, neighbors))
