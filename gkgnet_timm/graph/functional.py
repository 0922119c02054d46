"""Graph operations of Pyramid ViG and GKGNet, as pure functions on node tensors.

A node tensor is (batch, nodes, channels), so that the features of one node are one row in memory. Shapes use
B batch, N query nodes, M candidate nodes, C channels, G groups, k neighbours, H x W the grid of the queries.

Papers: GKGNet, arXiv 2308.14378, section 3 (Group KNN, cross-level graph); Vision GNN, arXiv 2206.00272, section 3.

Nodes on a GPU go through the kernels of `gkgnet_timm.ops`, all others through the eager functions here. The obvious
versions, which hold every distance and every gathered neighbour, are in `gkgnet_timm.dense`.
"""

from typing import Optional, Tuple

import torch

from timm.models import register_notrace_function

from . import cpu as cpu_kernels
from . import operators as ops
from .eager import gather_max, interleave, limit_neighbors, search_neighbors

__all__ = ['interleave_max_relative', 'knn_neighbors', 'max_relative']


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
