"""How alike a node and the neighbours that it chose are."""

import torch
import torch.nn.functional as F

__all__ = ['neighbor_similarity']


def neighbor_similarity(nodes: torch.Tensor, candidates: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
    """Cosine of nodes and their neighbours in each channel group, from -1 to 1: what the search compares.

    Between patches, the search adds the relative position to it.

    Args:
        nodes: (B, N, C).
        candidates: (B, M, C).
        neighbors: (B, G, N, k), indices of candidates.

    Returns:
        (B, G, N, k), in float32 or, of float64 nodes, in float64.
    """
    dtype = torch.promote_types(nodes.dtype, torch.float32)
    B, G, N, k = neighbors.shape
    x, y = (
        F.normalize(t.to(dtype).unflatten(2, (G, -1)).transpose(1, 2), dim=-1)  # (B, N, C) -> (B, G, N, C / G)
        for t in (nodes, candidates)
    )
    index = neighbors.flatten(2, 3).unsqueeze(-1).expand(-1, -1, -1, x.shape[-1])  # (B, G, N * k, C / G)
    chosen = y.gather(2, index).unflatten(2, (N, k))  # (B, G, N, k, C / G)
    return (x.unsqueeze(3) * chosen).sum(dim=-1)
