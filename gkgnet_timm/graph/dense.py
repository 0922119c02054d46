"""The graph operations in their obvious form, as the oracle of tests and the yardstick of the benchmark.

Everything is held at once: all N x M distances with the relative position matrix added, all k gathered neighbours of
every node. This is how the published code works, at its cost in memory and time.
"""

from typing import Optional

import torch
import torch.nn.functional as F

from .eager import limit_neighbors

__all__ = ['dense_max_relative', 'dense_neighbors', 'relative_position_matrix']


def relative_position_matrix(height: int, width: int, dim: int, reduction: int) -> torch.Tensor:
    """The relative position term P (N, M) of a stage in float64, straight from its definition.

    It is -R, where R = 2 / C * E E^T (N, N) is resized bicubically to M columns. Rows are independent and computed in
    turn: N x N would be 3.4 GB at 576 px.
    """
    wave = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows = torch.arange(height, dtype=torch.float64).repeat_interleave(width)  # of every node, in flat order
    cols = torch.arange(width, dtype=torch.float64).repeat(height)
    angles = [coordinate[:, None] * wave for coordinate in (cols, rows)]
    embed = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)  # (N, C)
    resized = []
    for part in embed.split(1024):
        similarity = 2 / dim * part @ embed.t()  # (n, N)
        if reduction > 1:
            size = (len(part), height * width // reduction**2)
            similarity = F.interpolate(similarity[None, None], size=size, mode='bicubic', align_corners=False)[0, 0]
        resized.append(-similarity)
    return torch.cat(resized)


def dense_neighbors(
    x: torch.Tensor,
    y: torch.Tensor,
    k: int,
    dilation: int = 1,
    num_groups: int = 1,
    position: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """`functional.knn_neighbors` from the full matrix of distances.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        k: Number of neighbours.
        dilation: Keep every dilation-th of the k * dilation nearest.
        num_groups: Number of contiguous channel groups G.
        position: Relative position term P (N, M).

    Returns:
        Indices of the candidates (B, G, N, k), nearest first.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, y = (
        F.normalize(nodes.to(dtype).unflatten(2, (num_groups, -1)).transpose(1, 2), dim=-1, eps=1e-12)
        for nodes in (x.detach(), y.detach())
    )  # (B, N, C) -> (B, G, N, C/G)
    with torch.autocast(x.device.type, enabled=False):
        distance = x.square().sum(-1, keepdim=True) - 2 * x @ y.transpose(-1, -2) + y.square().sum(-1).unsqueeze(-2)
    if position is not None:
        distance = distance + position.to(dtype)
    k, dilation = limit_neighbors(k, dilation, y.shape[2])
    return distance.topk(k * dilation, largest=False).indices[..., ::dilation]


def dense_max_relative(x: torch.Tensor, y: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """The max-relative features of `functional.interleave_max_relative`, from all gathered neighbours.

    Args:
        x: Queries (B, N, C).
        y: Candidates (B, M, C).
        neighbors: Indices into M per channel group (B, G, N, k).

    Returns:
        Aggregated features (B, N, C).
    """
    B, G, N, k = neighbors.shape
    x, y = (nodes.unflatten(2, (G, -1)).transpose(1, 2) for nodes in (x, y))  # (B, N, C) -> (B, G, N, C/G)
    index = neighbors.flatten(2).unsqueeze(-1).expand(-1, -1, -1, y.shape[-1])  # (B, G, N * k, C/G)
    gathered = y.gather(2, index).unflatten(2, (N, k))  # (B, G, N, k, C/G)
    relative = (gathered - x.unsqueeze(3)).max(dim=3).values  # (B, G, N, C/G)
    return relative.transpose(1, 2).flatten(2)  # (B, G, N, C/G) -> (B, N, C)
