"""Graph operations of Pyramid ViG and GKGNet, as pure functions on node tensors.

A node tensor is (batch, nodes, channels), so that the features of one node are one row in memory. Shapes use
B batch, N query nodes, M candidate nodes, C channels, G groups, k neighbours, H x W the grid of the queries.

Papers: GKGNet, arXiv 2308.14378, section 3 (Group KNN, cross-level graph); Vision GNN, arXiv 2206.00272, section 3.

This is the one place that decides what runs: an operator, which has a kernel for some devices, plain PyTorch where a
model is scripted, or the few operators of `graph.recorded` where one is traced or exported. The obvious versions, which
hold every distance and every gathered neighbour, are in `graph.dense`.
"""

from typing import Optional, Tuple

import torch

from timm.models import register_notrace_function

from . import eager, operators, recorded
from .selection import is_recorded

__all__ = ['interleave_max_relative', 'knn_neighbors']


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
    2 x.y + position is ranked. The N x M scores are never held at once, and no gradient goes through the search.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        k: Number of neighbours; all M when there are fewer.
        dilation: Keep every dilation-th of the k * dilation nearest; shortened when M is smaller than that.
        num_groups: Number of contiguous channel groups G, each with a graph of its own. 1 is the graph of ViG.
        position: The tables (H, M) and (W, M) of `layers.position.relative_position_tables`, N = H * W.

    Returns:
        Indices of the candidates (B, G, N, min(k, M)), nearest first.
    """
    if not torch.jit.is_scripting():
        if is_recorded():
            return recorded.search_neighbors(x, y, k, dilation, num_groups, position)
    k, dilation = eager.limit_neighbors(k, dilation, y.shape[1])
    if not torch.jit.is_scripting():
        row_table, col_table = (None, None) if position is None else position
        return operators.knn_neighbors(x.detach(), y.detach(), k, dilation, num_groups, row_table, col_table)
    return eager.search_neighbors(x, y, k, dilation, num_groups, position)


def interleave_max_relative(x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """Interleave nodes with their max-relative features, x_0, m_0, x_1, ...: the input of a graph convolution.

    m_i is per channel the largest y_j - x_i over the neighbours j of i (ViG, section 3.1). Subtraction is monotone, so
    this is (max_j y_j) - x_i, bit for bit, and nothing of size (N, k, C) is held.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        neighbors: Indices into M per channel group (B, G, N, k).

    Returns:
        Interleaved features (B, N, 2C).
    """
    keep_winner = torch.is_grad_enabled() and y.requires_grad
    if not torch.jit.is_scripting():
        if is_recorded():
            return recorded.interleave_max_relative(x, y, neighbors)
        return operators.interleave_max_relative(x, y, neighbors, keep_winner)[0]
    return eager.interleave_max_relative(x, y, neighbors, keep_winner)[0]


for _function in (knn_neighbors, interleave_max_relative):
    register_notrace_function(_function)  # no decorator, which would hide their types
